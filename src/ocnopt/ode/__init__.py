"""Continuous time: layers that solve an ODE, the second-order adjoint, and end times that are learned.

Needs torchdiffeq: ``pip install "ocnopt[ode]"``.
"""

from .field import Counts
from .joint import Joint, Node, Span, sample_products, second_order_adjoint
from .neural import NeuralODE
from .solver import SolveError, Solver
from .times import TerminalTime, time_curvature

__all__ = [
    "Counts",
    "Joint",
    "NeuralODE",
    "Node",
    "SolveError",
    "Solver",
    "Span",
    "TerminalTime",
    "sample_products",
    "second_order_adjoint",
    "time_curvature",
]
