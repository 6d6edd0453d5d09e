"""NeuralODE: a layer whose output is the solution of an ODE."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..core import backward
from .adjoint import Adjoint, Autocast, Flow
from .field import Counts, Field, inspect, state_of
from .joint import Span
from .solver import Solver, State, torchdiffeq
from .times import TerminalTime


class Way(Protocol):
    """How gradients come back through the solve."""

    def __call__(self, flow: Flow, x: State) -> State:
        """x(t1)."""
        ...


class ByAdjoint:
    """By solving the adjoint ODE: memory does not depend on the number of steps."""

    def __call__(self, flow: Flow, x: State) -> State:
        return Adjoint.apply(flow, *x, *flow.field.parameters())


class ByAutograd:
    """Through the steps of the solver, all of which are kept: discretise, then optimise."""

    def __call__(self, flow: Flow, x: State) -> State:
        return flow.end(x)


class NeuralODE(nn.Module):
    """x(t0) ↦ x(t1) with dx/dt = field(t, x).

    Args:
        field: a module called as field(t, x), t a number without dimensions and x the state, that returns dx/dt, shaped
            like x.
        t0, t1: from when to when; numbers, or a ``TerminalTime`` that learns one.
        solver: a method of torchdiffeq, or a ``Solver``.
        adjoint: whether gradients come from the adjoint ODE, at a memory that does not depend on the number of steps,
            or from the solver's own steps.
        keywords: options of ``Solver``: rtol, atol, options, nodes, rule.

    ``last`` counts the evaluations of the field in the last call and its backward pass, ``total`` those of all calls,
    until ``total.reset()``.

    Raises:
        TypeError, ValueError: for arguments that make no sense, and at the first calls for a field that cannot be
            integrated.
        ImportError: where torchdiffeq is not installed.
        SolveError: when a solve cannot go on; nothing has changed then.
    """

    def __init__(
        self,
        field: nn.Module,
        t0: float | TerminalTime = 0.0,
        t1: float | TerminalTime = 1.0,
        *,
        solver: str | Solver = "dopri5",
        adjoint: bool = True,
        **keywords: Any,
    ) -> None:
        torchdiffeq()
        require_module(field)
        super().__init__()
        self.field = field
        self.t0, self.t1 = t0, t1
        self.solver = solver_of(solver, keywords)
        self.way: Way = ByAdjoint() if adjoint else ByAutograd()
        self.last, self.total = Counts(), Counts()
        self.inspected: set[bool] = set()
        require_span(value_of(t0), value_of(t1))

    @property
    def nfe_forward(self) -> int:
        """Evaluations of the field in the last forward pass."""
        return self.last.forward

    @property
    def nfe_backward(self) -> int:
        """Evaluations of the field in the backward pass of the last call; none with adjoint=False."""
        return self.last.backward

    def forward(self, x: Tensor | State) -> Tensor | State:
        """x(t1), shaped like x: (B, ...), or a tuple of such."""
        state, single = state_of(x), isinstance(x, Tensor)
        f = Field(self.field, single)
        span = Span(*self.span(), self.solver)
        self.inspect(f, span.t0, state)
        if isinstance(self.t0, TerminalTime):
            state = self.t0(*state, *(-a for a in self.rate(f, span.t0, state)))
        self.last = Counts()
        flow = Flow(f, span, len(state), (self.last, self.total), Autocast.of(state[0]))
        out = self.way(flow, state)
        if isinstance(self.t1, TerminalTime):
            out = self.t1(*out, *self.rate(f, span.t1, out))
        for counts in (self.last, self.total):
            counts.forward += f.count
        return out[0] if single else out

    def span(self) -> tuple[float, float]:
        """t0 and t1 as they are now, learned ones moved into their limits."""
        for time in self.learned():
            time.project()
        t0, t1 = now = value_of(self.t0), value_of(self.t1)
        require_span(*now)
        for time in self.learned():
            time.narrow(t0 if time is self.t1 else t1)
        return now

    @torch.no_grad()
    def rate(self, f: Field, t: float, x: State) -> State:
        """F(t, x), cut off from the graph and heard by nobody."""
        with backward.muted():
            return f(torch.tensor(t, dtype=x[0].dtype, device=x[0].device), tuple(a.detach() for a in x))

    def inspect(self, f: Field, t: float, x: State) -> None:
        """Once in training and once in evaluation, see whether the field can be integrated."""
        if self.training not in self.inspected:
            inspect(f, t, x, self.training)
            self.inspected.add(self.training)

    def learned(self) -> list[TerminalTime]:
        """The ends that are learned."""
        return [t for t in (self.t0, self.t1) if isinstance(t, TerminalTime)]

    def times(self) -> list[nn.Parameter]:
        """Parameters of the ends that are learned, for a parameter group of their own."""
        return [t.time for t in self.learned() if t.time.requires_grad]

    def penalty(self, loss: Tensor | float = 0.0) -> Tensor:
        """Σ ½ c T² − L log(t1 − t0) over the ends that are learned, to be added to the loss L; see ``TerminalTime``."""
        own = [t.penalty(loss) for t in self.learned()]
        return torch.stack(own).sum() if own else torch.zeros(())

    def extra_repr(self) -> str:
        kind = "adjoint" if isinstance(self.way, ByAdjoint) else "discretised"
        return f"t0={value_of(self.t0):g}, t1={value_of(self.t1):g}, solver={self.solver.method}, {kind}"


def value_of(t: float | TerminalTime) -> float:
    return t.value if isinstance(t, TerminalTime) else float(t)


def solver_of(solver: str | Solver, keywords: Mapping[str, Any]) -> Solver:
    """The options of the solve. TypeError for a keyword that is none."""
    given = dict(keywords)
    if given.get("options", {}) is None:
        del given["options"]
    return replace(solver, **given) if isinstance(solver, Solver) else Solver(solver, **given)


def require_module(field: Any) -> None:
    if not isinstance(field, nn.Module):
        raise TypeError(
            f"NeuralODE takes its field as an nn.Module, called as field(t, x), not {type(field).__name__}: "
            "its parameters must be known."
        )


def require_span(t0: float, t1: float) -> None:
    if not (math.isfinite(t0) and math.isfinite(t1) and t0 < t1):
        raise ValueError(
            f"NeuralODE(t0={t0:g}, t1={t1:g}) needs t0 < t1; to run backwards, negate the field and exchange the two."
        )
