"""Estimators with scikit-learn's interface, trained by ``OCNOpt``. Needs scikit-learn: ``pip install "ocnopt[sklearn]"``."""

from .estimators import OCNClassifier, OCNRegressor

__all__ = ["OCNClassifier", "OCNRegressor"]
