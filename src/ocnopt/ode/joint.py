"""The second-order adjoint of an ODE: state, adjoint, columns and gradient in one backward solve.

With dx/dt = F(t, x, θ), from t1 back to t0 (Liu, Chen, Theodorou, SNOpt, arXiv 2109.14158, in Gauss-Newton form):

    −dq/dt = F_xᵀ q          q(t1) = ∂L/∂x(t1)                       the adjoint
    −dY/dt = F_xᵀ Y          Y(t1) Y(t1)ᵀ = the terminal curvature    one column for each of its factor
    −dp/dt = F_θᵀ q          p(t1) = 0, p(t0) = ∂L/∂θ                 a quadrature: nothing depends on it

V_xx(t) = Y(t) Y(t)ᵀ, and for each sample Q_θθ = Σ_r (∫ F_θᵀ Y_r dt)(∫ F_θᵀ Y_r dt)ᵀ, with integrals as sums over
quadrature nodes. Memory does not depend on the number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core import backward
from .field import Field, leaves, vjp
from .quadrature import quadrature
from .solver import FIXED, Solver, State, solve


@dataclass(frozen=True)
class Node:
    """A quadrature node: its time and weight, the state there, and the adjoint and all columns of it."""

    t: float
    weight: float
    x: State
    q: State
    columns: list[State]


@dataclass(frozen=True)
class Joint:
    """What a backward solve ends with, at t0, and what it passed at the nodes, the latest first."""

    x: State
    q: State
    columns: list[State]
    p: State
    nodes: list[Node]


@dataclass(frozen=True)
class Span:
    """From when to when, and how."""

    t0: float
    t1: float
    solver: Solver

    def nodes(self) -> list[tuple[float, float]]:
        """(t_j, w_j), the latest first."""
        return quadrature(self.solver.rule, self.solver.nodes, self.t0, self.t1)


def joint_solve(f: Field, x1: State, cotangents: Sequence[State], span: Span, *, nodes: bool = True) -> Joint:
    """Solve back from t1. cotangents: q(t1) and then the columns Y_r(t1), each shaped like the state.

    The solve is linear in q and Y: each is made of unit size first, so that tolerances mean the same for all.
    """
    k, θ = len(x1), f.parameters()
    wanted = span.nodes() if nodes else []
    times = sorted({span.t0, span.t1, *(t for t, _ in wanted)}, reverse=True)
    sizes = [size_of(u) for u in cotangents]
    start = [x1, *(tuple(a / s for a in u) for u, s in zip(cotangents, sizes, strict=True))]
    y1 = (*(a for part in start for a in part), *(torch.zeros_like(p) for p in θ))
    with backward.muted():
        states = solve(
            dynamics(f, k, len(cotangents)), y1, times, backward_settings(span.solver, k, len(cotangents)), k
        )

    def at(j: int) -> tuple[State, State, list[State]]:
        parts = [tuple(a[j] for a in states[k * i : k * (i + 1)]) for i in range(len(start))]
        x, (q, *Y) = parts[0], (tuple(a * s for a in u) for u, s in zip(parts[1:], sizes, strict=True))
        return x, q, Y

    p = tuple((a[-1] * sizes[0]).to(b.dtype) for a, b in zip(states[k * len(start) :], θ, strict=True))
    return Joint(*at(-1), p, [Node(t, w, *at(times.index(t))) for t, w in wanted])


def dynamics(f: Field, k: int, columns: int) -> Callable[[Tensor, State], State]:
    """The right-hand sides of x, q, Y and p; x are the first k tensors, and each column has k more."""

    def F(t: Tensor, y: State) -> State:
        θ = f.parameters()
        with torch.enable_grad():
            x = leaves(y[:k])
            dx = f(t, x)
        U = [y[k * i : k * (i + 1)] for i in range(1, columns + 1)]
        both = vjp(dx, (*x, *θ), U[0], again=columns > 1)
        rest = [vjp(dx, x, u, again=r < columns - 1) for r, u in enumerate(U[1:], 1)]
        flat = [*both[:k], *(a for part in rest for a in part), *both[k:]]
        return (*(a.detach() for a in dx), *(-a for a in flat))

    return F


def backward_settings(solver: Solver, k: int, columns: int) -> dict[str, object]:
    """Steps are judged by x, q and Y, each tensor by itself; p, which nothing depends on, is left out."""

    def seminorm(y: State) -> Tensor:
        return torch.stack([a.square().mean().sqrt() for a in y[: k * (columns + 1)] if a.numel()]).amax()

    # The states at nodes between two steps of a fixed size are those of a cubic, where the user says nothing else.
    interpolation = {"interp": solver.options.get("interp", "cubic")} if solver.method in FIXED else {}
    return solver.settings(norm=seminorm, **interpolation)


def size_of(u: State) -> float:
    """A power of two near the root mean square of u, so that dividing by it is exact; 1 for zeros."""
    total, count = sum(float(a.double().square().sum()) for a in u), sum(a.numel() for a in u)
    if not 0 < total < float("inf"):
        return 1.0
    return 2.0 ** round(0.5 * float(torch.tensor(total / count, dtype=torch.float64).log2()))


def second_order_adjoint(field: nn.Module, x1: Tensor | State, Y: Tensor | State, span: Span) -> Joint:
    """Pull R columns of a terminal factor back through an ODE.

    field: F(t, x), like a ``NeuralODE``'s.  x1: the state at t1, (B, ...), or a tuple of such.
    Y: (R, B, ...), shaped like x1 behind its first dimension, R ≥ 1.
    Returns a ``Joint``: ``x``, and ``q`` and ``columns`` (column 0, and those after it) at t0; ``p``, the integral of
    F_θᵀ Y_0; and the nodes, from which ``sample_products`` makes F_θᵀ Y for each column and sample.
    Raises SolveError where the solve cannot go on, ValueError where Y does not fit x1.
    """
    single = isinstance(x1, Tensor)
    state: State = (x1,) if isinstance(x1, Tensor) else x1
    columns: State = (Y,) if isinstance(Y, Tensor) else Y
    if [a.shape[1:] for a in columns] != [b.shape for b in state] or not len(columns[0]):
        raise ValueError(
            f"Y has shapes {[tuple(a.shape) for a in columns]} and x1 {[tuple(b.shape) for b in state]}; "
            "Y must be shaped like x1 behind a first dimension of at least one column."
        )
    with torch.no_grad():
        return joint_solve(Field(field, single), state, list(zip(*columns, strict=True)), span)


def sample_products(field: nn.Module, node: Node) -> Tensor:
    """F_θᵀ Y_r of every column and every sample on its own at a node: (R, B, n) for n trainable parameters in all."""
    f = Field(field, len(node.x) == 1)
    θ = f.parameters()
    with backward.muted(), torch.enable_grad():
        time = torch.tensor(node.t, dtype=node.x[0].dtype, device=node.x[0].device)
        dx = f(time, leaves(node.x))

    def row(Y: State, i: int) -> Tensor:
        return flat(vjp(dx, θ, tuple(alone(a, i) for a in Y), again=True))

    columns = (node.q, *node.columns)
    return torch.stack([torch.stack([row(Y, i) for i in range(len(Y[0]))]) for Y in columns])


def flat(tensors: State) -> Tensor:
    return torch.cat([a.flatten() for a in tensors])


def alone(u: Tensor, i: int) -> Tensor:
    """u (B, ...) with all samples but the i-th set to zero."""
    out = torch.zeros_like(u)
    out[i] = u[i]
    return out
