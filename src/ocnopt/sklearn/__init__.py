"""Estimators with scikit-learn's interface, trained by ``OCNOpt``; scikit-learn must be installed."""

from .estimators import OCNClassifier, OCNRegressor

__all__ = ["OCNClassifier", "OCNRegressor"]
