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


_WORDS = recurrent_ode(hidden=64, stride=12)
_CHARACTERS = recurrent_ode(hidden=32, stride=13)

ODE_CLASSIFIERS = (
    *(problem for name, data in _IMAGES.items() for problem in _images(name, data)),
    Problem(
        *("articularywordrecognition", "GRU, an ODE between updates, width 64", "articulary_words"),
        *(_WORDS, 32, 30, _SERIES),
    ),
    Problem(
        *("charactertrajectories", "GRU, an ODE between updates, width 32", "characters"),
        *(_CHARACTERS, 64, 10, _SERIES),
    ),
)
