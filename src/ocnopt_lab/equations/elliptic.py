"""Poisson in one and two dimensions, and Helmholtz: manufactured solutions, given on the whole boundary."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ocnopt.pde import Condition, Directions, Jet

from .equation import Equation, Function, Size, inside, walls, wave

LINE = ((-1.0, 1.0),)
SQUARE = ((-1.0, 1.0), (-1.0, 1.0))


def on_box(box: tuple[tuple[float, float], ...], equation: Callable[[Tensor, Jet], Tensor], solution: Function):
    """Conditions: the equation inside, the solution on the boundary."""

    def conditions(size: Size, seed: int) -> list[Condition]:
        given = Condition(walls(box, size.boundary, seed), lambda x, u: u.value - solution(x), weight=100.0)
        return [Condition(inside(box, size.inside, seed), equation), given]

    return conditions


def line(x: Tensor) -> Tensor:
    return wave(x, 0, 2) + 0.2 * wave(x, 0, 6)


def poisson_1d(x: Tensor, u: Jet) -> Tensor:
    """u″ = f."""
    return u.second[:, 0] + math.pi**2 * (4 * wave(x, 0, 2) + 0.2 * 36 * wave(x, 0, 6))


def square(x: Tensor) -> Tensor:
    return wave(x, 0, 1) * wave(x, 1, 1)


def poisson_2d(x: Tensor, u: Jet) -> Tensor:
    """Δu = f."""
    return u.second.sum(1) + 2 * math.pi**2 * square(x)


def stripes(x: Tensor) -> Tensor:
    return wave(x, 0, 1) * wave(x, 1, 4)


def helmholtz(x: Tensor, u: Jet) -> Tensor:
    """Δu + u = f."""
    return u.second.sum(1) + u.value - (1 - 17 * math.pi**2) * stripes(x)


POISSON_1D = Equation(
    title="Poisson 1D: u″ = f, u = sin 2πx + 0.2 sin 6πx",
    names=("x",),
    box=LINE,
    directions=Directions.axes(1, 1),
    size=Size(200, 2, (24, 24)),
    conditions=on_box(LINE, poisson_1d, line),
    solution=line,
)
POISSON_2D = Equation(
    title="Poisson 2D: Δu = f, u = sin πx sin πy",
    names=("x", "y"),
    box=SQUARE,
    directions=Directions.axes(2, 2),
    size=Size(400, 120, (16, 16)),
    conditions=on_box(SQUARE, poisson_2d, square),
    solution=square,
)
HELMHOLTZ = Equation(
    title="Helmholtz: Δu + u = f, u = sin πx sin 4πy",
    names=("x", "y"),
    box=SQUARE,
    directions=Directions.axes(2, 2),
    size=Size(500, 160, (24, 24)),
    conditions=on_box(SQUARE, helmholtz, stripes),
    solution=stripes,
)
