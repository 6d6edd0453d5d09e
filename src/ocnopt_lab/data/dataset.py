"""What every source ends in: standardised float32 inputs, int64 labels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class Arrays:
    """Raw arrays as a file holds them: x (samples, ...), y (samples,) with labels 0..classes-1."""

    x_train: NDArray
    y_train: NDArray
    x_test: NDArray
    y_test: NDArray


@dataclass(frozen=True)
class Dataset:
    """Inputs (samples, features) or (samples, channels, height, width), standardised; labels (samples,)."""

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    @property
    def in_shape(self) -> tuple[int, ...]:
        """Shape of one input, without the sample dimension."""
        return tuple(self.x_train.shape[1:])

    def first(self, samples: int | None) -> Dataset:
        """With so many training samples only; None for all of them."""
        return replace(self, x_train=self.x_train[:samples], y_train=self.y_train[:samples])


def build(name: str, arrays: Arrays) -> Dataset:
    """Scales, brings channels forward and standardises with the training mean and deviation."""
    x_train, x_test = (_channels_first(_as_float(x)) for x in (arrays.x_train, arrays.x_test))
    _standardise(x_train, x_test)
    y_train, y_test = (torch.from_numpy(y.astype(np.int64)) for y in (arrays.y_train, arrays.y_test))
    classes = int(y_train.max()) + 1
    return Dataset(name, torch.from_numpy(x_train), y_train, torch.from_numpy(x_test), y_test, classes)


def _as_float(x: NDArray) -> NDArray[np.float32]:
    """A float32 copy; uint8 images run over [0, 1]."""
    scaled = x.astype(np.float32)
    if x.dtype == np.uint8:
        scaled /= 255
    return scaled


def _channels_first(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, H, W) and (N, H, W, C) become (N, C, H, W); everything else stays as it is."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in CHANNELS and x.shape[1] not in CHANNELS:
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x


def _standardise(x_train: NDArray[np.float32], x_test: NDArray[np.float32]) -> None:
    """Zero mean and unit deviation on the training set, per feature or per image channel, in place."""
    axes = (0, *range(2, x_train.ndim))
    mean = x_train.mean(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
    deviation = x_train.std(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
    deviation[deviation == 0] = 1  # a constant feature carries nothing: zero, not NaN
    for x in (x_train, x_test):
        x -= mean
        x /= deviation
