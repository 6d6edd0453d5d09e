"""The vector field F of dx/dt = F(t, x, θ) as a solve sees it: counted, and held to what a solver needs of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core import backward
from .solver import State


@dataclass
class Counts:
    """Evaluations of a field, in forward and in backward passes."""

    forward: int = 0
    backward: int = 0

    def reset(self) -> None:
        """Begin again at zero."""
        self.forward = self.backward = 0


@dataclass(eq=False)
class Field:
    """F(t, x) with x and F as tuples.

    module: F as the user wrote it.  single: whether its state is one tensor.  count: evaluations so far.
    """

    module: nn.Module
    single: bool = True
    count: int = field(default=0)

    def __call__(self, t: Tensor, x: State) -> State:
        self.count += 1
        given = x[0] if self.single else x
        dx = self.module(t, given)
        out = (dx,) if isinstance(dx, Tensor) else tuple(dx)
        require_shapes(out, x)
        return tuple(a.to(b.dtype) for a, b in zip(out, x, strict=True))

    def parameters(self) -> list[nn.Parameter]:
        """Those that train."""
        return [p for p in self.module.parameters() if p.requires_grad]


def require_shapes(dx: State, x: State) -> None:
    """Raise ValueError unless dx/dt is shaped like x."""
    found, wanted = [tuple(a.shape) for a in dx], [tuple(b.shape) for b in x]
    if found != wanted:
        raise ValueError(
            f"The field returned shapes {found} for a state of shapes {wanted}; dx/dt must be shaped like x."
        )


def state_of(x: Any) -> State:
    """The state as a tuple. Half precision under autocast is raised to float32, which a solver needs.

    Raises TypeError or ValueError for what cannot be integrated.
    """
    tensors = (x,) if isinstance(x, Tensor) else x
    if not isinstance(tensors, tuple) or not tensors or not all(isinstance(a, Tensor) for a in tensors):
        raise TypeError(f"NeuralODE takes a tensor or a tuple of tensors, not {type(x).__name__}.")
    if torch.is_autocast_enabled(tensors[0].device.type):
        tensors = tuple(a.float() if a.dtype in (torch.bfloat16, torch.float16) else a for a in tensors)
    kinds = {a.dtype for a in tensors}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.float64}:
        raise ValueError(
            f"The state has dtype {', '.join(sorted(map(str, kinds)))}; a solver needs float32 or float64 throughout: "
            "keep field and state in float32, and use autocast for the speed of bfloat16."
        )
    return tensors


@torch.no_grad()
def inspect(f: Field, t: float, x: State, training: bool) -> None:
    """Raise ValueError for a field that no solver can integrate: it writes into its state, or is not a function."""
    time = torch.tensor(t, dtype=x[0].dtype, device=x[0].device)
    given = tuple(a.detach().clone() for a in x)
    with backward.muted():
        first = f(time, given)
        if any(a._version for a in given):
            raise ValueError(
                "The field writes into its state; use operations that are not in place, such as x + y for x.add_(y)."
            )
        if training and not all(map(alike, first, f(time, given))):
            raise ValueError(
                "The field is not deterministic: it gave two results for one state. Take dropout and other noise out "
                "of the field, or put it before or after the ODE."
            )
    f.count = 0


def alike(a: Tensor, b: Tensor) -> bool:
    """Equal up to the order of sums."""
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().amax()) if a.numel() else 0.0, equal_nan=True)


def vjp(dx: State, inputs: Sequence[Tensor], u: State, again: bool = False) -> State:
    """uᵀ ∂F/∂inputs; zeros where F does not depend on one. again: whether the graph is wanted once more."""
    pairs = [(a, b) for a, b in zip(dx, u, strict=True) if a.requires_grad]
    if not pairs or not inputs:
        return tuple(torch.zeros_like(a) for a in inputs)
    outputs, weights = zip(*pairs, strict=True)
    return torch.autograd.grad(
        outputs, list(inputs), weights, retain_graph=again, allow_unused=True, materialize_grads=True
    )


def leaves(x: State) -> State:
    """The same state at the root of a graph of its own."""
    return tuple(a.detach().requires_grad_() for a in x)
