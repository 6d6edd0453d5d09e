"""A differential equation to solve: its conditions on seeded points, a network, and the solution to compare with."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ocnopt.pde import Condition, Directions, JetNetwork, Residual

STEEPNESS = 3.0
"""Factor on the first layer as torch draws it, for all methods: as drawn, the units bend only outside of the box."""

Function = Callable[[Tensor], Tensor]
"""Points (N, d) to numbers (N, 1)."""


@dataclass(frozen=True)
class Size:
    """How many points each seed draws inside and on the boundary, and the widths of the hidden layers."""

    inside: int
    boundary: int
    hidden: tuple[int, ...]


@dataclass(frozen=True)
class Equation:
    """box: bounds of every coordinate, time last.  names: of the coordinates.

    conditions: of the numbers of points and a seed.  solution: exact, or a trusted one; it is never trained on.
    """

    title: str
    names: tuple[str, ...]
    box: tuple[tuple[float, float], ...]
    directions: Directions
    size: Size
    conditions: Callable[[Size, int], list[Condition]]
    solution: Function

    def model(self, seed: int) -> Residual:
        """A network with initial weights of the seed, on points of the seed."""
        torch.manual_seed(seed)
        network = JetNetwork([len(self.box), *self.size.hidden, 1], "tanh", self.directions)
        with torch.no_grad():
            for p in network.layers[0].parameters():
                p.mul_(STEEPNESS)
        return Residual(network, self.conditions(self.size, seed))

    def grid(self, steps: int = 101) -> Tensor:
        """A regular grid over the box, (steps^d, d), the last coordinate fastest."""
        axes = [torch.linspace(low, high, steps, dtype=torch.float64) for low, high in self.box]
        return torch.cartesian_prod(*axes).reshape(-1, len(axes))

    def error(self, model: Residual) -> float:
        """‖u − solution‖ / ‖solution‖ on the grid."""
        points = self.grid()
        exact = self.solution(points)
        return float((values(model, points) - exact).norm() / exact.norm())


def values(model: Residual, points: Tensor) -> Tensor:
    """u at the points (N, 1)."""
    training = model.training
    with torch.no_grad():
        u = model.eval().network.directions.split(model.network(points)).value
    model.train(training)
    return u


def inside(box: tuple[tuple[float, float], ...], count: int, seed: int) -> Tensor:
    """Points that fill the box evenly: a scrambled Sobol sequence."""
    unit = torch.quasirandom.SobolEngine(len(box), scramble=True, seed=seed).draw(count, dtype=torch.float64)
    low, high = torch.tensor(box, dtype=torch.float64).T
    return low + (high - low) * unit


def walls(box: tuple[tuple[float, float], ...], count: int, seed: int, sides: int | None = None) -> Tensor:
    """Points on the faces of the first ``sides`` coordinates (None: of all).

    Each face has a run of the sequence: every other point of a Sobol sequence would lie in one half of it.
    """
    points = inside(box, count, seed + 1)
    faces = [(axis, bound) for axis, bounds in enumerate(box[:sides]) for bound in bounds]
    for (axis, bound), rows in zip(faces, torch.arange(count).tensor_split(len(faces)), strict=True):
        points[rows, axis] = bound
    return points


def start(box: tuple[tuple[float, float], ...], count: int, seed: int) -> Tensor:
    """Points at the first time."""
    points = inside(box, count, seed + 2)
    points[:, -1] = box[-1][0]
    return points


def wave(points: Tensor, axis: int, times: float) -> Tensor:
    """sin(times π x) of one coordinate, (N, 1)."""
    return torch.sin(times * math.pi * points[:, axis : axis + 1])
