"""How far to step: the Bellman quadratic along a few directions, and the damping that keeps it honest.

Along directions d^j the objective of the Bellman pass is a quadratic in their coefficients α, and
its coefficients are sums of responses that the passes already made (DESIGN, section 2):

    b_j = ⟨p.grad, d^j⟩        R_i^j = Σ_t resp(Y, d_t^j)_i
    minimise  b·α + ½ αᵀ(Rᵀ C R + λ DᵀD) α,   0 ≤ α ≤ 1

Two directions, the policy's step and the previous step (heavy ball), give the step length and the
momentum coefficient together, as in the K-FAC optimizer (Martens and Grosse, arXiv 1503.05671, 6.4
and 7), with the true-vs-rest or Gauss-Newton core in place of a second pass over the data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Quadratic:
    """b·α + ½ αᵀ H α over the coefficients α of m directions: b (m,), H (m, m)."""

    b: Tensor
    H: Tensor

    def value(self, alpha: Tensor) -> Tensor:
        """The predicted change of the loss."""
        return self.b @ alpha + 0.5 * alpha @ self.H @ alpha

    def minimum(self) -> Tensor:
        """argmin over 0 ≤ α ≤ 1, (m,) for m ≤ 2: the best of the faces' own minima that lie in the box.

        A direction of zero length gets the coefficient zero.
        """
        candidates = torch.stack([*self.corners(), *self.edges(), *self.interior()])
        inside = ((candidates >= 0) & (candidates <= 1)).all(1) & candidates.isfinite().all(1)
        safe = torch.where(inside[:, None], candidates, 0.0)
        values = safe @ self.b + 0.5 * torch.einsum("ci,ij,cj->c", safe, self.H, safe)
        return safe[values.argmin()]

    def corners(self) -> list[Tensor]:
        m = len(self.b)
        grid = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * m).view(-1, m)
        return list(grid.to(self.b))

    def edges(self) -> list[Tensor]:
        """Minima with one coefficient free and the other at a bound."""
        m = len(self.b)
        out = []
        for free in range(m):
            for fixed in self.corners():
                alpha = fixed.clone()
                alpha[free] = 0.0
                alpha[free] = -(self.b[free] + self.H[free] @ alpha) / self.H[free, free]
                out.append(alpha)
        return out

    def interior(self) -> list[Tensor]:
        """The unconstrained minimum of two coefficients, by Cramer's rule: a singular H gives no finite candidate."""
        if len(self.b) == 1:
            return []
        (p, q), (_, s) = self.H
        top, bottom = -self.b
        return [torch.stack([top * s - bottom * q, p * bottom - q * top]) / (p * s - q * q)]


def bellman_quadratic(b: Tensor, R: Tensor, C: Tensor, overlap: Tensor, damping: float) -> Quadratic:
    """The model along m directions.

    b: (m,). R: (m, N, r) responses. C: (N, r, r) terminal core, each row weighted by the samples it
    stands for. overlap: DᵀD, (m, m).
    """
    curvature = torch.einsum("anr,nrs,bns->ab", R, C, R)
    return Quadratic(b, curvature + damping * overlap)


@dataclass(frozen=True)
class Model:
    """Options of search="model".

    damping: where λ ends up when all goes well.  start: λ of the first step (the careful start).
    decay: factor on λ after a good step.  growth: factor after a step that went too far.
    overshoot: the running overshoot (see ``Trust``) above which λ grows.
    memory: averaging coefficient of the overshoot.
    """

    damping: float = 1e-4
    start: float = 1.0
    decay: float = 0.85
    growth: float = 1.5
    overshoot: float = 0.5
    memory: float = 0.9

    def __post_init__(self) -> None:
        for name in ("damping", "start"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"Model({name}={value}) must be a positive number.")
        if not (0 < self.decay <= 1 <= self.growth):
            raise ValueError(f"Model needs 0 < decay ≤ 1 ≤ growth, not decay={self.decay}, growth={self.growth}.")
        if not 0 <= self.memory < 1:
            raise ValueError(f"Model(memory={self.memory}) must lie in [0, 1).")


@dataclass
class Trust:
    """How far the quadratic is trusted, learned without an extra pass.

    The slope along the step just taken, measured on the next batch, which that step has not seen:
    a step to the minimum of the true objective leaves none, one that went too far leaves a positive
    one. overshoot averages slope after / |slope before|; λ decays while it is small and grows while
    it is large.
    """

    damping: float
    overshoot: float = 0.0
    slope: float = 0.0

    def observe(self, slope_after: float, model: Model) -> None:
        """Adapt λ from ⟨p.grad on the new batch, last step⟩."""
        if self.slope < 0 and math.isfinite(slope_after):
            ratio = max(-3.0, min(3.0, slope_after / -self.slope))
            self.overshoot = model.memory * self.overshoot + (1 - model.memory) * ratio
        if self.overshoot > model.overshoot:
            self.damping = min(self.damping * model.growth, model.start)
        else:
            self.damping = max(self.damping * model.decay, model.damping)
