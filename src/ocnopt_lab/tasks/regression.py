"""Quantities for each input: given ones, or the input itself."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from ocnopt_lab.arrays import Arrays
from ocnopt_lab.errors import LabError
from ocnopt_lab.tasks.base import Measure, Scores, Targets, Task


@dataclass(frozen=True, eq=False)
class Regression(Task):
    """Mean squared error of outputs and standardised targets (B, outputs); root mean squared error in raw units.

    `unit` (outputs,): how much of the data's own unit a standardised target of 1 is.
    """

    name = "regression"
    loss_label = "training mean squared error, standardised"
    measure = Measure("rmse", "test RMSE", ".4g", min)

    unit: Tensor | None = None

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return mse_loss(output, target)

    def counted(self, output: Tensor, target: Tensor) -> float:
        error = output - target if self.unit is None else (output - target) * self.unit.to(output.device)
        return float(error.square().mean(1).sum())

    def scores(self, loss: float, mean: float) -> Scores:
        return {"loss": loss, "rmse": math.sqrt(mean) if mean >= 0 else math.nan}

    def targets(self, arrays: Arrays) -> Targets:
        """Standardised with mean and deviation of the training targets, per output."""
        train, test = (y.astype(np.float64).reshape(len(y), -1) for y in (arrays.y_train, arrays.y_test))
        mean, deviation = train.mean(0), train.std(0)
        deviation[deviation == 0] = 1
        first, second = (torch.from_numpy((y - mean) / deviation).float() for y in (train, test))
        return Targets(first, second, train.shape[1], Regression(torch.from_numpy(deviation).float()))

    def check(self, path: Path, arrays: Arrays) -> None:
        for key in ("y_train", "y_test"):
            _check_quantities(path, key, getattr(arrays, key))
        train, test = arrays.y_train.shape[1:], arrays.y_test.shape[1:]
        if train != test:
            raise LabError(f"{path}: a target of y_train has shape {train}, one of y_test {test}; make them equal.")


def _check_quantities(path: Path, key: str, y: NDArray) -> None:
    if y.dtype.kind != "f":
        raise LabError(
            f"{path}: {key} has type {y.dtype}; regression needs floating-point targets: use y.astype('float64') "
            "if they are quantities, or choose a classification problem if they are labels."
        )
    if y.ndim not in (1, 2) or y.size == 0:
        raise LabError(f"{path}: {key} has shape {y.shape}; targets must be (samples,) or (samples, outputs).")
    if not (finite := np.isfinite(y)).all():
        raise LabError(
            f"{path}: {key} holds {int((~finite).sum())} targets that are not finite; remove or replace them."
        )


class Reconstruction(Task):
    """Cross-entropy of logits and pixels in [0, 1] (B, pixels), and squared error: both are sums over an image.

    So it is in the literature of deep autoencoders: Hinton and Salakhutdinov (2006), Martens (2010).
    """

    name = "reconstruction"
    loss_label = "training cross-entropy per image, nats"
    measure = Measure("error", "test squared error per image", ".4g", min)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(output, target, reduction="sum") / len(target)

    def counted(self, output: Tensor, target: Tensor) -> float:
        return float((output.sigmoid() - target).square().sum())

    def scores(self, loss: float, mean: float) -> Scores:
        return {"loss": loss, "error": mean}

    def targets(self, arrays: Arrays) -> Targets:
        """The inputs themselves; labels are not looked at."""
        train, test = (torch.from_numpy(x) for x in (arrays.x_train, arrays.x_test))
        return Targets(train, test, train.shape[1], self)

    def check(self, path: Path, arrays: Arrays) -> None:
        for key in ("x_train", "x_test"):
            if (low := getattr(arrays, key).min()) < 0:
                raise LabError(f"{path}: {key} holds the value {low}; an autoencoder needs pixels from 0 up.")
