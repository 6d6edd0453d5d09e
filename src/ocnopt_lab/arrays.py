"""Raw arrays of a data set, and the ways to make float32 inputs of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHANNELS = (1, 3, 4)
Floats = NDArray[np.float32]
Inputs = Callable[[NDArray, NDArray], tuple[NDArray, NDArray]]
"""(x_train, x_test) as a source has them → what the network sees."""


@dataclass(frozen=True)
class Arrays:
    """As a file holds them: x (samples, ...), y (samples, ...) as the task wants it."""

    x_train: NDArray
    y_train: NDArray
    x_test: NDArray
    y_test: NDArray


def standardised(x_train: NDArray, x_test: NDArray) -> tuple[Floats, Floats]:
    """Zero mean and unit deviation on the training set, per feature or per image channel; channels come first."""
    train, test = (channels_first(scaled(x)) for x in (x_train, x_test))
    _standardise(train, test)
    return train, test


def pixels(x_train: NDArray, x_test: NDArray) -> tuple[Floats, Floats]:
    """(samples, pixels) in [0, 1]; what is not uint8 is divided by the largest training value."""
    top = 1.0 if x_train.dtype == np.uint8 else float(x_train.max()) or 1.0
    train, test = (np.clip(scaled(x) / np.float32(top), 0, 1).reshape(len(x), -1) for x in (x_train, x_test))
    return train, test


def unchanged(x_train: NDArray, x_test: NDArray) -> tuple[Floats, Floats]:
    """Float32 copies."""
    return x_train.astype(np.float32), x_test.astype(np.float32)


def as_they_are(x_train: NDArray, x_test: NDArray) -> tuple[NDArray, NDArray]:
    """Numbers of things that a network looks up."""
    return x_train, x_test


def series(x_train: NDArray, x_test: NDArray) -> tuple[Floats, Floats]:
    """Series (samples, times, channels + 1) whose last channel is 1 where something was observed, 0 in the padding.

    The channels are standardised with the observed training values; the padding is zero.
    """
    observed = x_train[..., -1] > 0
    mean, deviation = x_train[observed][:, :-1].mean(0), x_train[observed][:, :-1].std(0)
    deviation[deviation == 0] = 1
    train, test = (_padded(x, mean, deviation) for x in (x_train, x_test))
    return train, test


def _padded(x: NDArray, mean: NDArray, deviation: NDArray) -> Floats:
    mask = x[..., -1:]
    return np.concatenate([mask * (x[..., :-1] - mean) / deviation, mask], axis=-1).astype(np.float32)


def scaled(x: NDArray) -> Floats:
    """A float32 copy; uint8 images run over [0, 1]."""
    result = x.astype(np.float32)
    if x.dtype == np.uint8:
        result /= 255
    return result


def channels_first(x: Floats) -> Floats:
    """(N, H, W) and (N, H, W, C) become (N, C, H, W); everything else stays as it is."""
    if x.ndim == 3:
        return x[:, None]
    if x.ndim == 4 and x.shape[3] in CHANNELS and x.shape[1] not in CHANNELS:
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    return x


def _standardise(x_train: Floats, x_test: Floats) -> None:
    axes = (0, *range(2, x_train.ndim))
    mean = x_train.mean(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
    deviation = x_train.std(axis=axes, keepdims=True, dtype=np.float64).astype(np.float32)
    deviation[deviation == 0] = 1  # a constant feature carries nothing: zero, not NaN
    for x in (x_train, x_test):
        x -= mean
        x /= deviation
