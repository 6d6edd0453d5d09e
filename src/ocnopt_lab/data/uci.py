"""Nine UCI regression sets with the random splits of Hernández-Lobato and Adams, from one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ocnopt_lab.arrays import Arrays
from ocnopt_lab.data import npz
from ocnopt_lab.errors import LabError

FILE = "uci_regression.npz"
NAMES = ("boston", "concrete", "energy", "kin8nm", "naval", "powerplant", "protein", "winered", "yacht")


def read(file: Path, name: str, split: int) -> Arrays:
    """The set `name`: rows of the published test part of this split to test on, the rest to train on."""
    keys = (f"{name}_x", f"{name}_y", f"{name}_test_index")
    x, y, splits = npz.load(file, keys).values()
    if split >= len(splits):
        raise LabError(f"--split is {split}, but uci-{name} has the published splits 0 to {len(splits) - 1}.")
    test = np.zeros(len(x), dtype=bool)
    test[splits[split]] = True
    return Arrays(x[~test], y[~test], x[test], y[test])


def features(file: Path, name: str, split: int) -> Arrays:
    """Inputs and target side by side, standardised with the training part, as samples of a density: no targets."""
    arrays = read(file, name, split)
    train, test = (
        np.column_stack([x, y]) for x, y in ((arrays.x_train, arrays.y_train), (arrays.x_test, arrays.y_test))
    )
    mean, deviation = train.mean(0), train.std(0)
    spread = deviation > 0  # a constant column has no density
    train, test = ((a[:, spread] - mean[spread]) / deviation[spread] for a in (train, test))
    return Arrays(train, np.zeros((len(train), 0)), test, np.zeros((len(test), 0)))
