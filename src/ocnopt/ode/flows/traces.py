"""The divergence of a vector field, as products of its Jacobian with directions that stay the same over a solve.

    tr F_x = Σ_j e_jᵀ F_x e_j                    over an orthonormal basis, exact
           = E[εᵀ F_x ε],  E[ε εᵀ] = I           (Hutchinson; FFJORD, arXiv 1810.01367, section 3.1)

The products are taken in reverse, all in one evaluation of the field on m·B rows: the forward mode of torch would do,
but its linear layers take several times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Velocity = Callable[[Tensor, Tensor], Tensor]
"""F(t, x): t one number, x (B, d), and so the result."""


class Trace(Protocol):
    """A choice of directions."""

    def directions(self, x: Tensor) -> Tensor:
        """E (m, B, d) for one solve from the states x (B, d), with Σ_j E_j E_jᵀ the identity, or so in the mean."""
        ...


@dataclass(frozen=True)
class Exact:
    """The unit vectors: d products for d dimensions."""

    def directions(self, x: Tensor) -> Tensor:
        d = x.shape[1]
        return torch.eye(d, dtype=x.dtype, device=x.device).unsqueeze(1).expand(d, *x.shape)


@dataclass(frozen=True)
class Hutchinson:
    """Random signs, drawn once for a solve from torch's global generator: unbiased, whatever d.

    probes: how many vectors of signs are averaged.
    """

    probes: int = 1

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise ValueError(f"Hutchinson(probes={self.probes}) needs at least one.")

    def directions(self, x: Tensor) -> Tensor:
        signs = torch.randint(0, 2, (self.probes, *x.shape), device=x.device)
        return (2 * signs - 1).to(x.dtype) / self.probes**0.5


TRACES: dict[str, Trace] = {"exact": Exact(), "hutchinson": Hutchinson()}


def trace_of(choice: str | Trace) -> Trace:
    """A trace from its name."""
    if not isinstance(choice, str):
        return choice
    if choice not in TRACES:
        raise ValueError(f"trace={choice!r} is not known; choose one of {', '.join(map(repr, TRACES))}.")
    return TRACES[choice]


def divergence(F: Velocity, t: Tensor, x: Tensor, E: Tensor) -> Tensor:
    """Σ_j E_jᵀ F_x E_j of every sample, (B,), differentiable in x and in the parameters of F where gradients are on."""
    wanted = torch.is_grad_enabled()
    with torch.enable_grad():
        rows = x.repeat(len(E), 1)
        rows = rows if rows.requires_grad else rows.requires_grad_()
        dx = F(t, rows)
    cotangents = E.flatten(0, 1)
    (products,) = torch.autograd.grad(dx, rows, cotangents, create_graph=wanted, materialize_grads=True)
    return (products * cotangents).view_as(E).sum((0, 2))
