"""Small data sets made on the spot, and a place of their own for runs and caches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

Arrays = dict[str, NDArray]


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads the user's data or writes into the user's cache or working directory."""
    monkeypatch.setenv("OCNOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OCNOPT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def arrays() -> Arrays:
    """Three classes of 6 features that a small network tells apart."""
    return make_arrays(lambda rng, y: rng.normal(size=(len(y), 6)) + 2 * np.eye(3, 6)[y])


@pytest.fixture
def images() -> Arrays:
    """Three classes of 8x8 uint8 images: a bright row each."""

    def draw(rng: np.random.Generator, y: NDArray) -> NDArray:
        x = rng.integers(0, 100, size=(len(y), 8, 8), dtype=np.uint8)
        x[np.arange(len(y)), 2 * y] += 120
        return x

    return make_arrays(draw)


def make_arrays(draw) -> Arrays:
    rng = np.random.default_rng(0)
    y_train, y_test = np.arange(90) % 3, np.arange(30) % 3
    return {"x_train": draw(rng, y_train), "y_train": y_train, "x_test": draw(rng, y_test), "y_test": y_test}


@pytest.fixture
def npz(tmp_path: Path, arrays: Arrays) -> Path:
    """The feature arrays as a file."""
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return path
