"""Reads `x_train, y_train, x_test, y_test` from an npz file and says in one sentence what is wrong with it."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ocnopt_lab.arrays import Arrays
from ocnopt_lab.errors import LabError
from ocnopt_lab.tasks import Classification, Task

KEYS = ("x_train", "y_train", "x_test", "y_test")
_CLASSIFICATION = Classification()
_BROKEN = (ValueError, EOFError, zipfile.BadZipFile, zlib.error)


def read(path: Path, task: Task = _CLASSIFICATION) -> Arrays:
    """The four arrays of `path`, checked; `task` says what targets must be."""
    arrays = Arrays(**load(path, KEYS))
    _check(path, arrays)
    task.check(path, arrays)
    return arrays


def load(path: Path, keys: Sequence[str]) -> dict[str, NDArray]:
    """The arrays of these names."""
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise LabError(f"{path} holds one bare array; save {', '.join(keys)} with numpy.savez.")
        with file:
            _check_keys(path, file.files, keys)
            return {key: _member(path, file, key) for key in keys}
    except OSError as error:
        raise LabError(f"Cannot read {path}: {error.strerror or error}.") from error
    except _BROKEN as error:
        raise LabError(f"{path} is not a readable npz file; write it with numpy.savez.") from error


def _check_keys(path: Path, found: list[str], keys: Sequence[str]) -> None:
    if missing := [key for key in keys if key not in found]:
        raise LabError(
            f"{path} has no array {' and no '.join(missing)} (it holds {', '.join(found) or 'nothing'}); "
            f"save {', '.join(keys)} with numpy.savez."
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
        if x.shape[:1] != y.shape[:1]:
            samples = len(y) if y.ndim else 0
            raise LabError(f"{path}: x_{split} has {len(x)} samples, y_{split} has {samples}; they must be as many.")
    train, test = arrays.x_train, arrays.x_test
    if train.shape[1:] != test.shape[1:]:
        raise LabError(
            f"{path}: a sample of x_train has shape {train.shape[1:]}, one of x_test {test.shape[1:]}; make them equal."
        )


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
