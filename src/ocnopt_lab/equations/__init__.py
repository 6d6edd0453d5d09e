"""Differential equations to measure optimizers on, each with a solution to compare with."""

from .elliptic import HELMHOLTZ, POISSON_1D, POISSON_2D
from .equation import Equation
from .parabolic import BURGERS, HEAT

EQUATIONS: dict[str, Equation] = {
    "poisson-1d": POISSON_1D,
    "poisson-2d": POISSON_2D,
    "heat": HEAT,
    "burgers": BURGERS,
    "helmholtz": HELMHOLTZ,
}

__all__ = ["EQUATIONS", "Equation"]
