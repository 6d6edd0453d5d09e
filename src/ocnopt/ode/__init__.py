"""Continuous time: networks and flows whose depth is an interval."""

from .fields import Concat, ConcatSquash, Field
from .flows import ContinuousFlow
from .solvers import Adjoint, Discretised, one_solve
from .traces import Exact, Hutchinson

__all__ = [
    "Adjoint",
    "Concat",
    "ConcatSquash",
    "ContinuousFlow",
    "Discretised",
    "Exact",
    "Field",
    "Hutchinson",
    "one_solve",
]
