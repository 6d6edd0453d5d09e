"""One of several classes for each input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from ocnopt_lab.arrays import Arrays
from ocnopt_lab.errors import LabError
from ocnopt_lab.tasks.base import Measure, Scores, Targets, Task


class Classification(Task):
    """Cross-entropy of logits (B, classes) and labels (B,); the share of labels that are met."""

    name = "classification"
    loss_label = "training loss"
    measure = Measure("accuracy", "test accuracy", ".2%", max)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output, target)

    def counted(self, output: Tensor, target: Tensor) -> float:
        return float((output.argmax(1) == target).sum())

    def scores(self, loss: float, mean: float) -> Scores:
        return {"loss": loss, "accuracy": mean}

    def targets(self, arrays: Arrays) -> Targets:
        train, test = (torch.from_numpy(y.astype(np.int64)) for y in (arrays.y_train, arrays.y_test))
        return Targets(train, test, int(train.max()) + 1, self)

    def check(self, path: Path, arrays: Arrays) -> None:
        for key in ("y_train", "y_test"):
            _check_labels(path, key, getattr(arrays, key))
        _check_classes(path, arrays.y_train, arrays.y_test)


def _check_labels(path: Path, key: str, y: NDArray) -> None:
    if y.dtype.kind not in "ui":
        raise LabError(
            f"{path}: {key} has type {y.dtype}; labels must be integers 0, 1, 2, …: use y.astype('int64'), "
            "or choose a regression problem if they are quantities."
        )
    if y.ndim != 1:
        raise LabError(f"{path}: {key} has shape {y.shape}; it must be one label per sample, shape (samples,).")


def _check_classes(path: Path, y_train: NDArray, y_test: NDArray) -> None:
    """Classes are 0..max(y_train); a label outside, or a numbering with mostly gaps, is a mistake in the file."""
    for key, y in (("y_train", y_train), ("y_test", y_test)):
        if y.min() < 0:
            raise LabError(f"{path}: {key} holds the label {y.min()}; labels must be 0, 1, 2, …")
    top = int(y_train.max())
    if top < 1:
        raise LabError(f"{path}: y_train holds the label {top} only; classification needs at least two classes.")
    if y_test.max() > top:
        raise LabError(f"{path}: y_test holds the label {y_test.max()}, but y_train only labels 0 to {top}.")
    if top >= len(y_train):
        raise LabError(
            f"{path}: y_train holds the label {top} for {len(y_train)} samples; "
            "number the classes 0, 1, 2, … without gaps."
        )
