"""Finds a data set by name: made on the spot, with scikit-learn, in the data folder, or from the network.

scikit-learn is imported where it is used: it takes a second and 60 MB that a run on other data does not need.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ocnopt_lab.arrays import Arrays
from ocnopt_lab.data import download, npz, parquet, planar, series, text, uci
from ocnopt_lab.data.dataset import LABELS, Dataset, Recipe, build
from ocnopt_lab.data.functions import FUNCTIONS
from ocnopt_lab.data.systems import SYSTEMS
from ocnopt_lab.errors import FAILED, LabError

Read = Callable[[Path, int], Arrays]
"""(file, split) → raw arrays."""

_TEXT = "tinyshakespeare"
_SPLIT_SEED = 0  # one fixed split, whatever the seed of the run: runs of different seeds stay comparable


def load(
    name: str, file: Path | None = None, data_dir: Path | None = None, split: int = 0, recipe: Recipe = LABELS
) -> Dataset:
    """The data set `name`, or the user's own arrays where `file` is given.

    `split` is the number of a published split, or the seed of a set that is made or split on the spot.
    """
    if file is None:
        return build(name, _find(name, _data_dir(data_dir), split), recipe)
    _one_split(f"{file}", split)
    return build(file.stem, npz.read(file, recipe.task), recipe)


def _one_split(name: str, split: int) -> None:
    if split:
        raise LabError(f"--split is {split}, but {name} has one split only; leave --split out.")


def _data_dir(given: Path | None) -> Path | None:
    """`--data-dir`, else `OCNOPT_DATA`, else nothing."""
    from_environment = os.environ.get("OCNOPT_DATA")
    folder = given or (Path(from_environment) if from_environment else None)
    if folder is not None and not folder.is_dir():
        source = "--data-dir" if given else "OCNOPT_DATA"
        raise LabError(f"The data folder {folder} (from {source}) does not exist.")
    return folder


def _find(name: str, data_dir: Path | None, split: int) -> Arrays:
    if name in _MADE:
        return _MADE[name](split)
    if name in _FILES:
        file, read = _FILES[name]
        return read(_file(name, file, data_dir), split)
    _one_split(name, split)
    return _text(name, data_dir) if name == _TEXT else _images(name, data_dir)


def _text(name: str, data_dir: Path | None) -> Arrays:
    if data_dir is not None and (file := data_dir / f"{name}.npz").is_file():
        return text.read(file)
    return text.windows(download.fetch_text(name))


def _file(name: str, file: str, data_dir: Path | None) -> Path:
    """A file that only the data folder can hold."""
    if data_dir is None or not (data_dir / file).is_file():
        raise LabError(
            f"The data set {name} is not on this machine and cannot be downloaded: put {file} into a folder "
            "and name it with --data-dir or OCNOPT_DATA.",
            FAILED,
        )
    return data_dir / file


def _images(name: str, data_dir: Path | None) -> Arrays:
    if name in _SKLEARN:
        return _SKLEARN[name]()
    if data_dir is not None:
        if (file := data_dir / f"{name}.npz").is_file():
            return npz.read(file)
        if name == "cifar10" and (splits := parquet.find(data_dir)):
            return parquet.read(splits)
    return download.fetch(name)


def _digits() -> Arrays:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return _stratified(x.reshape(-1, 8, 8), y)


def _wine() -> Arrays:
    from sklearn.datasets import load_wine

    return _stratified(*load_wine(return_X_y=True))


def _stratified(x: NDArray[np.float64], y: NDArray[np.int64]) -> Arrays:
    """80 % to train on and 20 % to test on, each class in the same proportion."""
    from sklearn.model_selection import train_test_split

    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=_SPLIT_SEED)
    return Arrays(x_train, y_train, x_test, y_test)


_SKLEARN = {"digits": _digits, "wine": _wine}


def _uci(read: Callable[[Path, str, int], Arrays], name: str) -> tuple[str, Read]:
    return uci.FILE, lambda file, split: read(file, name, split)


_MADE: dict[str, Callable[[int], Arrays]] = {
    **{f"function-{name}": function.draw for name, function in FUNCTIONS.items()},
    **{f"function-{name}-noisy": function.draw_noisy for name, function in FUNCTIONS.items()},
    **{name: system.draw for name, system in SYSTEMS.items()},
    **{f"{name}-noisy": system.draw_noisy for name, system in SYSTEMS.items()},
    **{name: partial(planar.draw, name) for name in planar.PLANAR},
}
_FILES: dict[str, tuple[str, Read]] = {
    **{f"uci-{name}": _uci(uci.read, name) for name in uci.NAMES},
    **{f"features-{name}": _uci(uci.features, name) for name in uci.NAMES},
    "articulary_words": ("uea_articularywordrecognition.npz", series.articulary_words),
    "characters": ("uea_charactertrajectories.npz", series.characters),
}
