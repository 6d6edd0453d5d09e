"""Samples of densities in the plane, as in the experiments with continuous normalizing flows (FFJORD)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ocnopt_lab.arrays import Arrays

TRAIN, TEST = 5000, 2000
Points = NDArray[np.float64]


def circles(samples: int, rng: np.random.Generator) -> Points:
    """Two rings of radius 3 and 1.5."""
    from sklearn.datasets import make_circles

    return 3 * make_circles(samples, factor=0.5, noise=0.08, random_state=int(rng.integers(2**31)))[0]


def moons(samples: int, rng: np.random.Generator) -> Points:
    """Two half rings."""
    from sklearn.datasets import make_moons

    points = make_moons(samples, noise=0.1, random_state=int(rng.integers(2**31)))[0]
    return 2 * points + np.array([-1.0, -0.2])


def pinwheel(samples: int, rng: np.random.Generator) -> Points:
    """Five blades: radial normals, twisted with the distance."""
    along, across = rng.normal(size=(2, samples)) * np.array([[0.3], [0.1]]) + np.array([[1.0], [0.0]])
    angle = 2 * np.pi / 5 * rng.integers(5, size=samples) + 0.25 * np.exp(along)
    turned = along * np.cos(angle) - across * np.sin(angle), along * np.sin(angle) + across * np.cos(angle)
    return 2 * np.column_stack(turned)


def eight_gaussians(samples: int, rng: np.random.Generator) -> Points:
    """Normals of deviation 0.5 / √2 on a circle of radius 4 / √2."""
    angle = np.pi / 4 * rng.integers(8, size=samples)
    centres = 4 * np.column_stack([np.cos(angle), np.sin(angle)])
    return (centres + 0.5 * rng.normal(size=(samples, 2))) / np.sqrt(2)


PLANAR: dict[str, Callable[[int, np.random.Generator], Points]] = {
    "circles": circles,
    "moons": moons,
    "pinwheel": pinwheel,
    "8gaussians": eight_gaussians,
}


def draw(name: str, seed: int) -> Arrays:
    """Training and test samples of their own; no targets."""
    rng = np.random.default_rng(seed)
    train, test = PLANAR[name](TRAIN, rng), PLANAR[name](TEST, rng)
    return Arrays(train, np.zeros((TRAIN, 0)), test, np.zeros((TEST, 0)))
