"""scikit-learn's own checks of an estimator, and what the estimators promise beyond them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_iris, make_regression
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from ocnopt.sklearn import OCNClassifier, OCNRegressor

SMALL = {"hidden_layer_sizes": (8,), "max_iter": 10}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([OCNRegressor(**SMALL), OCNClassifier(**SMALL)])
def test_scikit_learns_own_checks(estimator: Any, check: Any) -> None:
    check(estimator)


def smooth(count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    X = np.random.default_rng(0).uniform(-1, 1, (count, 2))
    return X, np.sin(3 * X[:, 0]) + X[:, 1] ** 2


def fitted(estimator: Any, X: Any, y: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X, y)


def test_a_smooth_function_is_fitted_closely() -> None:
    X, y = smooth()
    model = fitted(OCNRegressor((12, 12), alpha=0.0, max_iter=60, random_state=0), X, 100 + 1e-3 * y)
    assert model.loss_curve_[-1] < 1e-5
    assert model.score(*(lambda X, y: (X, 100 + 1e-3 * y))(*smooth(200))) > 0.999


def test_iris() -> None:
    X, names = load_iris(return_X_y=True)
    labels = np.array(["a", "b", "c"])[names]
    scores = cross_val_score(OCNClassifier((8,), max_iter=15, random_state=0), X, labels, cv=3)
    assert scores.mean() > 0.92


def test_several_outputs_keep_their_scales() -> None:
    X, y = smooth()
    Y = np.stack([y, 1e6 * X[:, 0], np.full(len(y), 3.0)], 1)
    model = fitted(OCNRegressor((10,), max_iter=30, random_state=0), X, Y)
    assert model.predict(X).shape == Y.shape
    assert np.allclose(model.predict(X)[:, 2], 3.0, atol=0.05)
    assert np.corrcoef(model.predict(X)[:, 1], Y[:, 1])[0, 1] > 0.99


def test_larger_data_is_trained_in_parts() -> None:
    X, y = make_regression(1500, 5, random_state=0)
    model = fitted(OCNRegressor((16,), max_iter=8, random_state=0), X, y)
    assert model._plan(1500, 1, 0).batch == 128 and model._plan(1000, 1, 0).batch is None
    assert model._plan(500, 3, 0).batch == 128
    assert model.score(X, y) > 0.9


def test_early_stopping_ends_with_the_best_parameters() -> None:
    """Noise and no penalty: the held-out loss turns up again."""
    X, y = load_diabetes(return_X_y=True)
    model = OCNRegressor((16, 16), alpha=0.0, early_stopping=True, validation_fraction=0.3, random_state=0)
    model.fit(X[:150], y[:150])
    curve = model.validation_loss_curve_
    assert model.n_iter_ == len(curve) == len(model.loss_curve_) < model.max_iter
    assert min(curve) < curve[-1]
    plain = fitted(OCNRegressor((16, 16), alpha=0.0, max_iter=model.n_iter_, random_state=0), X[:150], y[:150])
    assert plain.validation_loss_curve_ == []
    assert model.score(X[150:], y[150:]) > plain.score(X[150:], y[150:])


def test_the_global_random_numbers_are_left_alone() -> None:
    X, y = smooth(40)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    first, again, other = (
        fitted(OCNRegressor((6,), max_iter=3, random_state=seed), X, y).predict(X) for seed in (0, 0, 1)
    )
    assert torch.equal(states[0], torch.get_rng_state()) and (states[1] == np.random.get_state()[1]).all()
    assert (first == again).all() and not (first == other).any()


def test_in_a_pipeline() -> None:
    X, y = smooth(60)
    pipeline = make_pipeline(FunctionTransformer(np.tanh), OCNRegressor((6,), max_iter=10, random_state=0))
    assert fitted(pipeline, X, y).predict(X).shape == (60,)


def test_too_few_iterations_are_told() -> None:
    with pytest.warns(ConvergenceWarning, match="has made all max_iter=2 iterations"):
        OCNRegressor((6,), max_iter=2, random_state=0).fit(*smooth(40))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"activation": "step"}, "activation='step' is not known"),
        ({"max_iter": 0}, "max_iter=0 must be a whole number"),
        ({"n_iter_no_change": 1.5}, "n_iter_no_change=1.5 must be a whole number"),
        ({"hidden_layer_sizes": (4, 0)}, "must be whole numbers from 1 on"),
        ({"batch_size": "all"}, "batch_size='all' must be 'auto' or"),
        ({"alpha": -1.0}, "alpha=-1.0 must be a number from 0 on"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0 must lie between"),
    ],
)
def test_what_makes_no_sense_is_refused_in_fit(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        OCNRegressor(**options).fit(*smooth(10))


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="needs two classes or more"):
        OCNClassifier().fit(np.zeros((4, 2)), np.ones(4))
