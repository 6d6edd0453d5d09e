"""Continuous normalizing flows: fields, traces of their Jacobians, and how they are solved."""

from .fields import Concat, ConcatSquash, Field
from .flow import ContinuousFlow
from .solvers import Adjoint, Discretised
from .traces import Exact, Hutchinson

__all__ = ["Adjoint", "Concat", "ConcatSquash", "ContinuousFlow", "Discretised", "Exact", "Field", "Hutchinson"]
