"""OCNRegressor and OCNClassifier: scikit-learn's view of a network trained by ``OCNOpt``."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.nn import functional as F

from .training import ACTIVATIONS, Data, Loss, Plan, network, train

LARGEST_WHOLE = 1000
"""batch_size="auto" trains on all samples at once up to this many samples times outputs: a step costs their cube."""
AUTO_BATCH = 128


class _Network(BaseEstimator):
    """What regression and classification share."""

    def __init__(
        self,
        hidden_layer_sizes: tuple[int, ...] = (64, 64),
        activation: str = "tanh",
        *,
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        max_iter: int = 200,
        tol: float = 1e-4,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        random_state: Any = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.alpha = alpha
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.random_state = random_state

    def _train(self, X: np.ndarray, y: np.ndarray, outputs: int, loss: Loss) -> None:
        """Fit the scaling of the inputs and the network; y is in the units of the loss already."""
        draws = check_random_state(self.random_state)
        seed = int(draws.randint(np.iinfo(np.int32).max))
        self.scaler_ = StandardScaler().fit(X)
        data, held_out = self._split(Data(torch.as_tensor(self.scaler_.transform(X)), torch.as_tensor(y)), seed)
        sizes = [X.shape[1], *np.atleast_1d(self.hidden_layer_sizes).tolist(), outputs]
        self.network_ = network(sizes, self.activation, seed)
        told = train(self.network_, loss, data, held_out, self._plan(len(data.x), outputs, seed))
        self.network_.eval()
        self.n_iter_, self.loss_curve_, self.validation_loss_curve_ = len(told.losses), told.losses, told.held_out
        if not told.converged:
            warnings.warn(
                f"{type(self).__name__} has made all max_iter={self.max_iter} iterations and was still learning.",
                ConvergenceWarning,
                stacklevel=3,
            )

    def _split(self, data: Data, seed: int) -> tuple[Data, Data | None]:
        """The samples to train on, and those held out for early stopping."""
        if not self.early_stopping:
            return data, None
        classes = data.y.numpy() if data.y.dim() == 1 else None
        options = {"test_size": self.validation_fraction, "random_state": seed, "stratify": classes}
        parts = train_test_split(np.arange(len(data.x)), **options)
        kept, held = (torch.as_tensor(rows) for rows in parts)
        return data.at(kept), data.at(held)

    def _plan(self, samples: int, outputs: int, seed: int) -> Plan:
        if self.batch_size == "auto":
            batch = None if samples * outputs <= LARGEST_WHOLE else AUTO_BATCH
        else:
            batch = None if int(self.batch_size) >= samples else int(self.batch_size)
        return Plan(batch, self.alpha, self.max_iter, self.tol, self.n_iter_no_change, seed)

    def _output(self, X: Any) -> np.ndarray:
        """What the network says of each sample, (N, outputs)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with torch.no_grad():
            return self.network_(torch.as_tensor(self.scaler_.transform(X))).numpy()

    def _check_options(self) -> None:
        """Raise ValueError with a sentence for what makes no sense."""
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation={self.activation!r} is not known; choose one of {', '.join(ACTIVATIONS)}.")
        for name in ("max_iter", "n_iter_no_change"):
            if not is_count(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a whole number from 1 on.")
        if not all(map(is_count, np.atleast_1d(self.hidden_layer_sizes).tolist())):
            raise ValueError(f"hidden_layer_sizes={self.hidden_layer_sizes!r} must be whole numbers from 1 on.")
        if self.batch_size != "auto" and not is_count(self.batch_size):
            raise ValueError(f"batch_size={self.batch_size!r} must be 'auto' or a whole number from 1 on.")
        for name in ("alpha", "tol"):
            if not (isinstance(getattr(self, name), Real) and getattr(self, name) >= 0):
                raise ValueError(f"{name}={getattr(self, name)!r} must be a number from 0 on.")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction={self.validation_fraction!r} must lie between 0 and 1.")


class OCNRegressor(RegressorMixin, MultiOutputMixin, _Network):
    """A network for one or several numbers, fitted by least squares. Inputs and targets are standardised inside.

    Args:
        hidden_layer_sizes: widths of the hidden layers.
        activation: "tanh", "relu", "silu", "gelu", "softplus", "logistic" or "identity".
        alpha: L2 penalty, ½ alpha |θ|² beside the mean loss.
        batch_size: samples of a step. "auto": all, by coupled Levenberg-Marquardt steps, where samples times
            outputs are at most 1000; else 128 at a time.
        max_iter: the most iterations: steps on all samples, or epochs.
        tol: relative gain of the loss that counts.
        early_stopping: whether to hold samples out and end with the parameters that were best on them.
        validation_fraction: how many are held out.
        n_iter_no_change: iterations without a gain after which training ends.
        random_state: of the weights, of the split and of the order of samples.

    Attributes:
        network_: the torch module, of standardised inputs.  n_iter_: iterations made.
        loss_curve_, validation_loss_curve_: the losses after each iteration, without the penalty.
    """

    def fit(self, X: Any, y: Any) -> OCNRegressor:
        """X (N, d), y (N,) or (N, k)."""
        self._check_options()
        X, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        self.flat_ = y.ndim == 1
        self.target_scaler_ = StandardScaler()
        targets = self.target_scaler_.fit_transform(y.reshape(len(X), -1).astype(np.float64))
        self._train(X, targets, targets.shape[1], F.mse_loss)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(N,) or (N, k), as the targets were."""
        out = self._output(X)
        out = self.target_scaler_.inverse_transform(out)
        return out[:, 0] if self.flat_ else out


class OCNClassifier(ClassifierMixin, _Network):
    """A network for two or more classes, fitted by cross-entropy. Arguments and attributes are those of OCNRegressor.

    classes_: the labels.
    """

    def fit(self, X: Any, y: Any) -> OCNClassifier:
        """X (N, d), y (N,) of labels."""
        self._check_options()
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        encoder = LabelEncoder().fit(y)
        self.classes_ = encoder.classes_
        if len(self.classes_) < 2:
            raise ValueError(f"OCNClassifier needs two classes or more, and y has one class only: {self.classes_[0]}.")
        self._train(X, encoder.transform(y).astype(np.int64), len(self.classes_), F.cross_entropy)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, classes)."""
        return torch.as_tensor(self._output(X)).softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Labels (N,)."""
        winners = self._output(X).argmax(1)
        return self.classes_[winners]


def is_count(x: Any) -> bool:
    return isinstance(x, Integral) and not isinstance(x, bool) and int(x) >= 1
