"""The adjoint of an ODE as an autograd function, and what an optimizer's capture hears of it.

Backward passes beside the loss's own (columns of the terminal factor, draws) come first and wait at the ODE; when the
loss's own arrives, one backward solve carries them all, and each goes on from there by itself. The field's layers are
heard at quadrature nodes alone, where each call counts by its weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from ..core import backward
from ..core.arrivals import Mode
from ..core.backward import Evaluation, Pass
from .field import Counts, Field, leaves, vjp
from .joint import Joint, Span, joint_solve
from .solver import State, solve


@dataclass(eq=False)
class Waiting:
    """A pass that waits: its cotangent, and the trajectory that it is for."""

    one: Pass
    u: State
    calls: Any

    @property
    def current(self) -> bool:
        """Whether nobody has forgotten that trajectory since."""
        return self.calls is self.one.capture.calls


@dataclass(eq=False)
class Stash:
    """Passes that wait at one ODE. Ways by which the same column arrives add up."""

    waiting: dict[Any, Waiting] = field(default_factory=dict)

    def put(self, one: Pass, u: State) -> None:
        key = one.capture, one.mode, one.column
        before = self.waiting.get(key)
        if before is not None and before.current:
            u = tuple(a + b for a, b in zip(before.u, u, strict=True))
        self.waiting[key] = Waiting(one, u, one.capture.calls)

    def take(self) -> list[Waiting]:
        """All that are for the trajectory at hand; nothing waits any longer."""
        taken, self.waiting = list(self.waiting.values()), {}
        return [w for w in taken if w.current]


@dataclass(frozen=True)
class Autocast:
    """The precision that a forward pass ran in. Casts are not shared: those made here carry no gradient."""

    device: str
    dtype: torch.dtype
    enabled: bool

    @classmethod
    def of(cls, x: Tensor) -> Autocast:
        device = x.device.type
        return cls(device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))

    def on(self) -> torch.autocast:
        return torch.autocast(self.device, self.dtype, self.enabled, cache_enabled=False)


@dataclass(frozen=True)
class Flow:
    """One use of an ODE.  k: tensors of its state.  counts: to be told of evaluations on the way back."""

    field: Field
    span: Span
    k: int
    counts: Sequence[Counts]
    autocast: Autocast

    def ahead(self, x: State) -> State:
        """x(t1), and nothing of the way there is kept."""
        with backward.muted(), self.autocast.on():
            return self.end(x)

    def end(self, x: State) -> State:
        """x(t1), by steps that autograd may follow."""
        span, solver = self.span, self.span.solver
        settings = solver.settings(**solver.norm(self.field.single))
        states = solve(self.field, x, (span.t0, span.t1), settings, self.k)
        return tuple(a[-1] for a in states)

    def back(self, x1: State, cotangents: Sequence[State], heard: bool) -> Joint:
        with self.autocast.on():
            return joint_solve(self.field, x1, cotangents, self.span, nodes=heard)


class Adjoint(torch.autograd.Function):
    """x(t0), θ ↦ x(t1), with the gradient of the continuous problem."""

    @staticmethod
    def forward(ctx: Any, flow: Flow, *tensors: Tensor) -> State:
        x1 = flow.ahead(tensors[: flow.k])
        ctx.flow, ctx.stash = flow, Stash()
        ctx.save_for_backward(*x1, *tensors[flow.k :])  # parameters, too: changed ones must not go unnoticed
        return x1

    @staticmethod
    def backward(ctx: Any, *u: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "The adjoint of a NeuralODE has no second derivatives; build it with adjoint=False to have them."
            )
        one, flow = backward.passing(), ctx.flow
        x1 = ctx.saved_tensors[: flow.k]
        if one is not None and one.mode in (Mode.COLUMN, Mode.DRAW):
            ctx.stash.put(one, u)
            return (None,) * (1 + len(ctx.saved_tensors))
        heard = one is None or one.mode is Mode.LOSS
        waiting = ctx.stash.take() if heard else []
        flow.field.count = 0
        solved = flow.back(x1, [u, *(w.u for w in waiting)], heard and bool(flow.field.parameters()))
        hear(flow, solved, [w.one for w in waiting])
        for counts in flow.counts:
            counts.backward += flow.field.count
        send(ctx.next_functions[: flow.k], solved, [w.one for w in waiting])
        return (None, *solved.q, *solved.p)


def hear(flow: Flow, solved: Joint, passes: Sequence[Pass]) -> None:
    """Evaluate the field at the nodes once more, with hooks: g = F_hᵀ q, and F_hᵀ Y of every pass that has waited."""
    θ, span = flow.field.parameters(), flow.span
    for node in solved.nodes:
        evaluation = Evaluation()
        with evaluation.opened(), torch.enable_grad(), flow.autocast.on():
            dx = flow.field(torch.tensor(node.t, dtype=node.x[0].dtype, device=node.x[0].device), leaves(node.x))
            vjp(dx, θ, node.q, again=bool(passes))
            if not evaluation.calls:
                return  # nobody listens
            for j, (one, Y) in enumerate(zip(passes, node.columns, strict=True), 1):
                with one.again():
                    vjp(dx, θ, Y, again=j < len(passes))
        evaluation.deposit(node.weight, node.weight / (span.t1 - span.t0))


def send(edges: Sequence[Any], solved: Joint, passes: Sequence[Pass]) -> None:
    """Every pass that has waited goes on, from what the ODE's input was computed by."""
    inner = [j for j, (node, _) in enumerate(edges) if node is not None and not hasattr(node, "variable")]
    for one, Y in zip(passes, solved.columns, strict=True) if inner else ():
        roots = [GradientEdge(*edges[j]) for j in inner]
        one.send(roots, [Y[j] for j in inner])
