"""Regression: the UCI sets, smooth functions, deep autoencoders."""

from __future__ import annotations

from torch import nn

from ocnopt_lab.arrays import pixels
from ocnopt_lab.data import Recipe
from ocnopt_lab.data.functions import FUNCTIONS, Function
from ocnopt_lab.problems.networks import FullyConnected, autoencoder, sparsely
from ocnopt_lab.problems.problem import Problem
from ocnopt_lab.tasks import Reconstruction, Regression

_TARGETS = Recipe(Regression())
_PIXELS = Recipe(Reconstruction(), pixels)
_UCI = {  # name: (batch size, epochs)
    "boston": (32, 60),
    "concrete": (32, 60),
    "energy": (32, 80),
    "kin8nm": (128, 30),
    "naval": (128, 30),
    "powerplant": (128, 20),
    "protein": (256, 10),
    "winered": (64, 20),
    "yacht": (32, 100),
}


def _uci(name: str, batch_size: int, epochs: int) -> Problem:
    network = FullyConnected(50, layers=3)
    return Problem(
        f"uci-{name}", "3 dense layers, tanh, width 50", f"uci-{name}", network, batch_size, epochs, _TARGETS
    )


def _function(function: Function, suffix: str) -> Problem:
    name, description = f"function-{function.name}{suffix}", "4 dense layers, tanh, width 32"
    batch_size = max(20, function.samples // 10)
    return Problem(name, description, name, FullyConnected(32, layers=4), batch_size, 600, _TARGETS)


_MNIST = sparsely(autoencoder((1000, 500, 250, 30), nn.Sigmoid))
_DIGITS = autoencoder((60, 30, 8), nn.Tanh)

REGRESSIONS = (
    *(_uci(name, *sizes) for name, sizes in _UCI.items()),
    *(_function(function, suffix) for function in FUNCTIONS.values() for suffix in ("", "-noisy")),
    Problem("autoencoder-mnist", "784-1000-500-250-30 and mirror, sigmoid", "mnist", _MNIST, 500, 5, _PIXELS),
    Problem("autoencoder-digits", "64-60-30-8 and mirror, tanh", "digits", _DIGITS, 64, 60, _PIXELS),
)
