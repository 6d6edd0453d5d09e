"""Fictitious players: an adversary at every stage, who disturbs the state at a stated cost.

Where a stage has one player only, a second is made up (Chen, Liu, Theodorou, arXiv 2105.03788): w_i moves the state of
sample i behind the stage so as to raise the value, and pays (ρ/2B)|w_i|² for it. The player of the stage then
answers the worst case,

    V(x) ← max_w V(x + w) − (ρ/2B)|w|²
    V_xx ← V_xx + V_xx (ρ/B − V_xx)⁻¹ V_xx        V_x ← V_x + V_xx (ρ/B − V_xx)⁻¹ V_x

which keeps the span of Y. With V_x = Y c, V_xx = Y C Yᵀ and X = (B/ρ) C YᵀY it reads

    C ← (I − X)⁻¹ C        c ← (I − X)⁻¹ c

The lines of the Bellman pass for a player with f_θ = I and metric −ρ/B. As ρ → ∞ nothing is left of it. An
adversary who pays too little would raise the value without bound (X ≥ 1); there ρ is raised for the sample.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..core.stage import Stage
from ..core.value import PerSample
from ..linalg.symmetric import Tally, symmetrize


class Robust(PerSample):
    """The per-sample value against disturbances.

    cost: ρ, per unit of squared length of the disturbance of one sample's state, in units of that sample's loss.
    limit: the largest eigenvalue of X, below 1; samples for which ρ had to be raised are counted.
    """

    def __init__(self, cost: float = 10.0, limit: float = 0.5, tally: Tally | None = None) -> None:
        if not (math.isfinite(cost) and cost > 0):
            raise ValueError(f"Robust(cost={cost}) must be a positive number.")
        if not 0 < limit < 1:
            raise ValueError(f"Robust(limit={limit}) must lie between 0 and 1.")
        self.cost, self.limit = cost, limit
        self.tally = Tally() if tally is None else tally

    def meet(self, stage: Stage, C: Tensor, a: Tensor | None, own: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(C, a) as the player of the stage meets them, own (N, r): coordinates of v in Y, None for Y = v."""
        X = self.held(C @ gram_of_columns(stage) * (batch_of(stage) / self.cost))
        coordinates = torch.ones_like(C[:, 0, :]) if own is None else own.to(C)
        c = coordinates if a is None else coordinates + a
        rest = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device) - X
        worse = torch.linalg.solve_ex(rest, torch.cat([C, c.unsqueeze(-1)], -1))[0]
        return symmetrize(worse[..., :-1]), worse[..., -1] - coordinates

    def held(self, X: Tensor) -> Tensor:
        """X (N, r, r) with eigenvalues of at most the limit: those of a product of two semi-definite matrices."""
        largest = X[:, 0, 0] if X.shape[-1] == 1 else torch.linalg.eigvals(X).real.amax(-1)
        self.tally["disturbances held"] += int((largest > self.limit).sum())
        return X * (self.limit / largest).clamp(max=1.0).nan_to_num(nan=1.0)[:, None, None]


def gram_of_columns(stage: Stage) -> Tensor:
    """YᵀY of every sample over all outputs of the stage, (N, r, r)."""
    like = stage.gradient[0]
    dtype = torch.promote_types(like.dtype, torch.float32)
    total = like.new_zeros(stage.samples.count, stage.rank, stage.rank, dtype=dtype)
    for _, Y, rows in stage.pairs:
        flat = Y[:, : rows.stop - rows.start].flatten(2).to(dtype)
        total[rows] += torch.einsum("rbn,sbn->brs", flat, flat)
    return total


def batch_of(stage: Stage) -> float:
    """Samples of the whole step, also where only some of them are at hand."""
    weight = stage.samples.weight
    return stage.ranks.size * (float(stage.samples.count) if weight is None else float(weight.sum()))
