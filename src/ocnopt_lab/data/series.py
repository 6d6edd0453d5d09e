"""Multivariate time series of the UEA archive; a last channel says where a value was observed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ocnopt_lab.arrays import Arrays
from ocnopt_lab.data import npz
from ocnopt_lab.errors import LabError


def articulary_words(file: Path, split: int) -> Arrays:
    """Series (samples, 144, 9 + 1) of the published split; all are of one length."""
    if split:
        raise LabError(f"--split is {split}, but articulary_words has one published split; leave --split out.")
    arrays = npz.load(file, npz.KEYS)
    for key in ("x_train", "x_test"):
        x = arrays[key]
        arrays[key] = marked(x, np.full(len(x), x.shape[1]))
    return Arrays(**arrays)


def characters(file: Path, split: int) -> Arrays:
    """Series (samples, 182, 3 + 1), half to train on, every class in the same proportion; `split` seeds the draw."""
    from sklearn.model_selection import train_test_split

    x, length, y = npz.load(file, ("x", "length", "y")).values()
    x_train, x_test, y_train, y_test = train_test_split(
        marked(x, length), y, test_size=0.5, stratify=y, random_state=split
    )
    return Arrays(x_train, y_train, x_test, y_test)


def marked(x: NDArray, length: NDArray) -> NDArray[np.float32]:
    """Appends to series (samples, times, channels) a channel that is 1 up to each series' length (samples,)."""
    mask = np.arange(x.shape[1]) < length[:, None]
    return np.concatenate([x, mask[..., None]], axis=-1).astype(np.float32)
