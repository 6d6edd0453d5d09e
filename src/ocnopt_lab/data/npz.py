"""Reads `x_train, y_train, x_test, y_test` from an npz file and says in one sentence what is wrong with it."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ocnopt_lab.data.dataset import Arrays
from ocnopt_lab.errors import LabError

KEYS = ("x_train", "y_train", "x_test", "y_test")
_BROKEN = (ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def read(path: Path) -> Arrays:
    """The four arrays of `path`, checked."""
    arrays = Arrays(**_load(path))
    _check(path, arrays)
    return arrays


def _load(path: Path) -> dict[str, NDArray]:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise LabError(f"{path} holds one bare array; save all four with numpy.savez: {', '.join(KEYS)}.")
        with file:
            _check_keys(path, file.files)
            return {key: _member(path, file, key) for key in KEYS}
    except OSError as error:
        raise LabError(f"Cannot read {path}: {error.strerror or error}.") from error
    except _BROKEN as error:
        raise LabError(f"{path} is not a readable npz file; write it with numpy.savez.") from error


def _check_keys(path: Path, found: list[str]) -> None:
    if missing := [key for key in KEYS if key not in found]:
        raise LabError(
            f"{path} has no array {' and no '.join(missing)} (it holds {', '.join(found) or 'nothing'}); "
            f"save {', '.join(KEYS)} with numpy.savez."
        )


def _member(path: Path, file: np.lib.npyio.NpzFile, key: str) -> NDArray:
    try:
        return file[key]
    except ValueError as error:  # numpy's words for "this is a pickle"
        raise LabError(f"{path}: {key} holds Python objects, not numbers; convert it to a numeric array.") from error


def _check(path: Path, arrays: Arrays) -> None:
    for split in ("train", "test"):
        x, y = getattr(arrays, f"x_{split}"), getattr(arrays, f"y_{split}")
        _check_inputs(path, f"x_{split}", x)
        _check_labels(path, f"y_{split}", y)
        if len(x) != len(y):
            raise LabError(f"{path}: x_{split} has {len(x)} samples, y_{split} has {len(y)}; they must be as many.")
    train, test = arrays.x_train, arrays.x_test
    if train.shape[1:] != test.shape[1:]:
        raise LabError(
            f"{path}: a sample of x_train has shape {train.shape[1:]}, one of x_test {test.shape[1:]}; make them equal."
        )
    _check_classes(path, arrays.y_train, arrays.y_test)


def _check_inputs(path: Path, key: str, x: NDArray) -> None:
    if x.dtype.kind not in "uif":
        raise LabError(f"{path}: {key} has type {x.dtype}; it must hold integers or floating-point numbers.")
    if x.ndim < 2 or x.size == 0:
        raise LabError(
            f"{path}: {key} has shape {x.shape}; it must be (samples, features) or (samples, height, width)."
        )
    if x.dtype.kind == "f" and not (finite := np.isfinite(x)).all():
        first = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise LabError(
            f"{path}: {key} holds {int((~finite).sum())} values that are not finite, "
            f"the first is {x[first]} at index {first}; remove or replace them."
        )


def _check_labels(path: Path, key: str, y: NDArray) -> None:
    if y.dtype.kind not in "ui":
        raise LabError(f"{path}: {key} has type {y.dtype}; labels must be integers 0, 1, 2, …: use y.astype('int64').")
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
