"""Continuous normalizing flows (Chen et al., arXiv 1806.07366; FFJORD, arXiv 1810.01367).

A sample x of the data is carried along a vector field to where the distribution is a standard normal one, and its
logarithmic density changes by the divergence on the way (instantaneous change of variables, FFJORD eq. 2-4):

    d/dt (x, ℓ) = (F(t, x), −tr F_x),   (x, ℓ)(0) = (x, 0)
    log p(x) = log N(x(T); 0, I) − ℓ(T)

**What the players hear.** With the adjoints q of x and q_ℓ of ℓ, which is constant in time,

    −dq/dt = F_xᵀ q − q_ℓ ∇_x tr F_x
    dL/dθ = ∫ Σ_i F_θᵀ q dt − ∫ Σ_i q_ℓ ∂(tr F_x)/∂θ dt.

The field is evaluated twice at each point: once for dx/dt, whose layers are captured, and once for the divergence,
which is muted. A layer's call of the first kind holds z and v = F_hᵀ q (times the weight of the step): the cotangent of
its output h through dx/dt alone, with a q that is exact and so has felt the divergence at all other times. pull(v) over
all calls is the first integral. The second, the direct influence of the parameters on the divergence, is in ``p.grad``
and in nothing else. So Q_θ and the slope of a step, made of ``p.grad``, are exact; responses and curvature see the
state's path only.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ...core.backward import muted
from .solvers import Discretised
from .traces import Trace, divergence, trace_of


class Silent(torch.autograd.Function):
    """x, through which a cotangent of zeros does not come back: what lies behind is spared, with the same result.

    A column of the terminal factor is zero where the loss is linear, as it is in ℓ. Pulled back through the solver that
    stays a tensor of zeros, and the second derivatives behind the divergence would be most of the work.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> Tensor | None:
        (g,) = cotangents
        return g if bool(g.any()) else None


class Augmented(nn.Module):
    """d/dt (x, ℓ) = (F(t, x), −tr F_x), with the directions E of the trace held fixed."""

    def __init__(self, field: nn.Module, E: Tensor) -> None:
        super().__init__()
        self.field, self.E = field, E

    def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x, _ = state
        dx = self.field(t, x)
        with muted():
            return dx, -Silent.apply(divergence(self.field, t, x, self.E))


class Velocity(nn.Module):
    """dx/dt = F(t, x) alone, as a state of one tensor."""

    def __init__(self, field: nn.Module) -> None:
        super().__init__()
        self.field = field

    def forward(self, t: Tensor, state: tuple[Tensor]) -> tuple[Tensor]:
        return (self.field(t, state[0]),)


class ContinuousFlow(nn.Module):
    """A density on R^d: a standard normal one carried along a vector field.

    field: F, called as field(t, x) with t one number and x (B, d).  dim: d.
    trace: "exact", "hutchinson", or an object of ``traces``.
    solver: ``Discretised(...)`` or ``Adjoint(...)``; None for the first with its defaults.
    T: the length of the way.

    Train it by ``loss = -flow.log_prob(x).mean()``. For a terminal factor of rank above one:
    ``end = flow(x); optimizer.backward(-flow.log_density(end).mean(), end)``.
    """

    def __init__(
        self,
        field: nn.Module,
        dim: int,
        trace: str | Trace = "exact",
        solver: Discretised | None = None,
        T: float = 1.0,
    ) -> None:
        super().__init__()
        if not (math.isfinite(T) and T > 0):
            raise ValueError(f"ContinuousFlow(T={T}) must be a positive number.")
        self.field, self.dim, self.T = field, dim, T
        self.trace = trace_of(trace)
        self.solver = Discretised() if solver is None else solver

    def forward(self, x: Tensor) -> Tensor:
        """(x(T), ℓ(T)) side by side, (B, d + 1), of samples x (B, d)."""
        if x.dim() != 2 or x.shape[1] != self.dim:
            raise ValueError(f"The flow carries samples of shape (B, {self.dim}), not {tuple(x.shape)}.")
        augmented = Augmented(self.field, self.trace.directions(x))
        end, change = self.solver.end(augmented, (x, x.new_zeros(len(x))), x.new_tensor([0.0, self.T]))
        return torch.cat([end, change.unsqueeze(1)], dim=1)

    def log_density(self, end: Tensor) -> Tensor:
        """log N(x(T); 0, I) − ℓ(T), (B,), of what ``forward`` returned."""
        x, change = end[:, :-1], end[:, -1]
        return -0.5 * (x.square().sum(1) + self.dim * math.log(2 * math.pi)) - change

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x), (B,), of samples x (B, d)."""
        return self.log_density(self(x))

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n samples, (n, d): normal ones carried back from T to 0."""
        like = next(self.field.parameters())
        z = torch.randn(n, self.dim, generator=generator, dtype=like.dtype, device=like.device)
        with muted():
            (x,) = self.solver.end(Velocity(self.field), (z,), z.new_tensor([self.T, 0.0]))
        return x
