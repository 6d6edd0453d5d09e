"""Classifiers with a Neural ODE inside, in the architectures of SNOpt (arXiv 2109.14158)."""

from __future__ import annotations

from ocnopt_lab.arrays import series
from ocnopt_lab.data import Recipe
from ocnopt_lab.problems.ode_networks import convolutional_ode, recurrent_ode
from ocnopt_lab.problems.problem import Problem
from ocnopt_lab.tasks import Classification

_SERIES = Recipe(Classification(), series)
_IMAGES = {"mnist": "mnist", "fashion-mnist": "fashion_mnist", "cifar10": "cifar10"}
_FULL = convolutional_ode(64)
_SMALL = convolutional_ode(16)


def _images(name: str, data: str) -> list[Problem]:
    """Full size, and small enough for a minute on one core."""
    full, small = (f"3 convolutions, an ODE of two, width {width}" for width in (64, 16))
    return [
        Problem(f"{name}-ode", full, data, _FULL, 128, 3),
        Problem(f"{name}-ode-small", small, data, _SMALL, 64, 3, train_samples=6000),
    ]


def _series(name: str, data: str, hidden: int, stride: int, epochs: int) -> Problem:
    description = f"GRU, an ODE between updates, width {hidden}"
    return Problem(name, description, data, recurrent_ode(hidden, stride), 32, epochs, _SERIES)


ODE_CLASSIFIERS = (
    *(problem for name, data in _IMAGES.items() for problem in _images(name, data)),
    _series("articularywordrecognition", "articulary_words", hidden=64, stride=12, epochs=30),
    _series("charactertrajectories", "characters", hidden=32, stride=13, epochs=10),
)
