"""Continuous time: layers that solve an ODE, the second-order adjoint, end times that are learned, and flows.

Needs torchdiffeq: ``pip install "ocnopt[ode]"``.
"""

from ..core.solves import one_solve
from .field import Counts
from .flows import (
    Adjoint,
    Concat,
    ConcatSquash,
    ContinuousFlow,
    Discretised,
    Exact,
    Field,
    Hutchinson,
)
from .joint import Joint, Node, Span, sample_products, second_order_adjoint
from .neural import NeuralODE
from .solver import SolveError, Solver
from .times import TerminalTime, time_curvature

__all__ = [
    "Adjoint",
    "Concat",
    "ConcatSquash",
    "ContinuousFlow",
    "Counts",
    "Discretised",
    "Exact",
    "Field",
    "Hutchinson",
    "Joint",
    "NeuralODE",
    "Node",
    "SolveError",
    "Solver",
    "Span",
    "TerminalTime",
    "one_solve",
    "sample_products",
    "second_order_adjoint",
    "time_curvature",
]
