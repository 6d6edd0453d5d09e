"""Samples of distributions in the plane that flows are tried on, as in FFJORD (arXiv 1810.01367, figure 2).

Every function returns n samples, (n, 2) in float32, the same for the same seed, with mean 0 and standard deviation 1 in
both coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from sklearn.datasets import make_circles, make_moons
from torch import Tensor


def circles(n: int, seed: int = 0) -> Tensor:
    """Two circles around one centre."""
    points, _ = make_circles(n, factor=0.5, noise=0.06, random_state=seed)
    return standardised(points)


def moons(n: int, seed: int = 0) -> Tensor:
    """Two half circles that reach into each other."""
    points, _ = make_moons(n, noise=0.08, random_state=seed)
    return standardised(points)


def pinwheel(n: int, seed: int = 0, arms: int = 5) -> Tensor:
    """Arms that turn with their distance from the centre (Johnson et al., arXiv 1603.06277)."""
    rng = np.random.default_rng(seed)
    out, across = 1 + 0.3 * rng.standard_normal(n), 0.1 * rng.standard_normal(n)
    angles = 2 * math.pi * rng.integers(arms, size=n) / arms + 0.25 * np.exp(out)
    x = np.cos(angles) * out - np.sin(angles) * across
    y = np.sin(angles) * out + np.cos(angles) * across
    return standardised(np.stack([x, y], axis=1))


def eight_gaussians(n: int, seed: int = 0) -> Tensor:
    """Eight round heaps on a circle."""
    rng = np.random.default_rng(seed)
    angles = 2 * math.pi * rng.integers(8, size=n) / 8
    centres = 2 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return standardised(centres + 0.25 * rng.standard_normal((n, 2)))


DENSITIES: dict[str, Callable[[int, int], Tensor]] = {
    "circles": circles,
    "moons": moons,
    "pinwheel": pinwheel,
    "8gaussians": eight_gaussians,
}


def standardised(points: np.ndarray) -> Tensor:
    """Mean 0 and standard deviation 1 in every coordinate."""
    return torch.from_numpy((points - points.mean(0)) / points.std(0)).float()
