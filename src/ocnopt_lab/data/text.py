"""A text as windows of characters, each with the characters that follow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ocnopt_lab.arrays import Arrays
from ocnopt_lab.data import npz

WINDOW = 64
"""Characters of a window."""
_TRAINED = 0.9  # as nanoGPT splits it: the first part of the text


def read(file: Path) -> Arrays:
    """The windows of `text`, an array of bytes in an npz file."""
    return windows(npz.load(file, ("text",))["text"])


def windows(text: NDArray[np.uint8]) -> Arrays:
    """Numbers of the characters of a text (length,): windows that do not overlap, and the same ones one later.

    The characters are numbered in the order of their bytes. What is left at the end is not used.
    """
    _, numbers = np.unique(text, return_inverse=True)
    cut = int(_TRAINED * len(numbers))
    parts = [_pairs(part.astype(np.int64)) for part in (numbers[:cut], numbers[cut:])]
    return Arrays(*parts[0], *parts[1])


def _pairs(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    samples = (len(numbers) - 1) // WINDOW
    first, second = numbers[: samples * WINDOW], numbers[1 : samples * WINDOW + 1]
    return first.reshape(samples, WINDOW), second.reshape(samples, WINDOW)
