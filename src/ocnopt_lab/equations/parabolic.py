"""Heat and viscous Burgers: an initial value, and zero at both ends. Points are (x, t)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ocnopt.pde import Condition, Directions, Jet

from .equation import Equation, Function, Size, inside, start, walls, wave

BOX = ((-1.0, 1.0), (0.0, 1.0))
SPACE_AND_TIME = Directions.axes(2, twice=1)
DIFFUSION = 0.05
VISCOSITY = 0.1 / math.pi
NODES = 120
"""Of the quadrature: doubled, no digit of the solution changes."""


def from_start(equation: Callable[[Tensor, Jet], Tensor], initial: Function):
    """Conditions: the equation inside, the initial value, and zero at both ends."""

    def conditions(size: Size, seed: int) -> list[Condition]:
        half = size.boundary // 2
        return [
            Condition(inside(BOX, size.inside, seed), equation),
            Condition(start(BOX, half, seed), lambda x, u: u.value - initial(x), weight=10.0),
            Condition(walls(BOX, size.boundary - half, seed, sides=1), lambda x, u: u.value, weight=10.0),
        ]

    return conditions


def decay(x: Tensor, times: int) -> Tensor:
    """One mode of the heat equation."""
    return torch.exp(-DIFFUSION * (times * math.pi) ** 2 * x[:, 1:]) * wave(x, 0, times)


def cooling(x: Tensor) -> Tensor:
    return decay(x, 1) + 0.5 * decay(x, 3)


def heat(x: Tensor, u: Jet) -> Tensor:
    """u_t = κ u_xx."""
    return u.first[:, 1] - DIFFUSION * u.second[:, 0]


def burgers(x: Tensor, u: Jet) -> Tensor:
    """u_t + u u_x = ν u_xx."""
    return u.first[:, 1] + u.value * u.first[:, 0] - VISCOSITY * u.second[:, 0]


def sine(x: Tensor) -> Tensor:
    return -wave(x, 0, 1)


def shock(points: Tensor, nodes: int = NODES) -> Tensor:
    """Burgers' solution from u(x, 0) = −sin πx by the transform of Cole and Hopf,

        u = −∫ sin(π y) w dη / ∫ w dη,   y = x − η,   w = exp(−cos(π y)/(2πν) − η²/(4νt)),

    with Gauss-Hermite quadrature in η/√(4νt) (Basdevant et al., Spectral and finite difference solutions of the
    Burgers equation, Computers & Fluids 14, 1986).
    """
    z, weights = (torch.from_numpy(part) for part in np.polynomial.hermite.hermgauss(nodes))
    y = points[:, :1] - z * (4 * VISCOSITY * points[:, 1:]).sqrt()
    exponent = -torch.cos(math.pi * y) / (2 * math.pi * VISCOSITY)
    w = weights * torch.exp(exponent - exponent.amax(1, keepdim=True))
    return -(torch.sin(math.pi * y) * w).sum(1, keepdim=True) / w.sum(1, keepdim=True)


HEAT = Equation(
    title="Heat: u_t = 0.05 u_xx, two modes",
    names=("x", "t"),
    box=BOX,
    directions=SPACE_AND_TIME,
    size=Size(300, 120, (12, 12, 12)),
    conditions=from_start(heat, cooling),
    solution=cooling,
)
BURGERS = Equation(
    title="Burgers: u_t + u u_x = (0.1/π) u_xx, u(x, 0) = −sin πx",
    names=("x", "t"),
    box=BOX,
    directions=SPACE_AND_TIME,
    size=Size(450, 120, (16, 16, 16)),
    conditions=from_start(burgers, sine),
    solution=shock,
)
