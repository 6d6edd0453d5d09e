"""Finds a data set by name: the data folder first, then scikit-learn, then the network.

scikit-learn is imported where it is used: it takes a second and 60 MB that a run on other data does not need.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ocnopt_lab.arrays import Arrays
from ocnopt_lab.data import download, npz, parquet
from ocnopt_lab.data.dataset import LABELS, Dataset, Recipe, build
from ocnopt_lab.errors import LabError

_SPLIT_SEED = 0  # one fixed split, whatever the seed of the run: runs of different seeds stay comparable


def load(name: str, file: Path | None = None, data_dir: Path | None = None, recipe: Recipe = LABELS) -> Dataset:
    """The data set `name`, or the user's own arrays where `file` is given."""
    if file is not None:
        return build(file.stem, npz.read(file, recipe.task), recipe)
    return build(name, _find(name, _data_dir(data_dir)), recipe)


def _data_dir(given: Path | None) -> Path | None:
    """`--data-dir`, else `OCNOPT_DATA`, else nothing."""
    from_environment = os.environ.get("OCNOPT_DATA")
    folder = given or (Path(from_environment) if from_environment else None)
    if folder is not None and not folder.is_dir():
        source = "--data-dir" if given else "OCNOPT_DATA"
        raise LabError(f"The data folder {folder} (from {source}) does not exist.")
    return folder


def _find(name: str, data_dir: Path | None) -> Arrays:
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
