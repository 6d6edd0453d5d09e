"""The cooperative step in the product form of the paper, kept for comparison, and with its length corrected.

For two players (Chen, Liu, Theodorou, arXiv 2105.03788, proposition 4), with Schur complements

    Ã_u = A_u − A_uv A_v⁻¹ A_vu,   B̃_u = B_u − B_uv B_v⁻¹ B_vu
    δθ_u = −Ã_u⁻¹ ⊗ B̃_u⁻¹ (Q_u − (A_uv A_v⁻¹ ⊗ B_uv B_v⁻¹) Q_v)

The Schur complement of a Kronecker block matrix is not the product of its factors' complements:

    A_u ⊗ B_u − (A_u − Ã_u) ⊗ (B_u − B̃_u) = Ã_u ⊗ B_u + A_u ⊗ B̃_u − Ã_u ⊗ B̃_u ⪰ Ã_u ⊗ B̃_u,

so the printed step is too long, the more so the more the players correlate. In terms of the inverse of the stacked
factors, 𝔸 = [A_u A_uv; A_vu A_v] and 𝔹 alike, the same step reads

    δθ_u = −(𝔸⁻¹)_uu ⊗ (𝔹⁻¹)_uu Q_u + Σ_{v≠u} (𝔸⁻¹)_uv ⊗ (𝔹⁻¹)_uv Q_v

which is how it extends to more than two. The corrected form multiplies the whole step by −⟨Q, d⟩/⟨d, M d⟩, the
minimum along it of the joint quadratic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.protocols import Params
from ..curvature.metrics import MatrixMetric
from ..linalg.symmetric import DecompositionError, Tally, cholesky
from .coalition import divided, side_by_side
from .cross import Cross
from .metrics import Matrices, Pair, dot


@dataclass(frozen=True)
class ProductForm:
    """M by the printed inverse. A, B: damped own factors (n, n) of every player; cross: P_uv for u < v.

    corrected: whether the step has the length that minimises the joint quadratic along it.
    Where the stacked factors cannot be inverted, or the direction does not descend, each player takes its own
    block; that is counted.
    """

    blocks: Sequence[MatrixMetric]
    lengths: Sequence[int]
    A: Sequence[Tensor]
    B: Sequence[Tensor]
    cross: Mapping[Pair, Cross]
    corrected: bool = True
    tally: Tally = field(default_factory=Tally)
    contains_own_block = True

    def solve(self, d: Params) -> Params:
        """M⁻¹ d, without leading dimensions."""
        parts = zip(self.blocks, divided(d, self.lengths), strict=True)
        g = [block.player.to_matrix(part)[0].to(A.dtype) for (block, part), A in zip(parts, self.A, strict=True)]
        scaled = [g_u * block.scale**0.5 for g_u, block in zip(g, self.blocks, strict=True)]
        x = self.printed(scaled)
        length = self.length(scaled, x) if x is not None and self.corrected else 1.0
        if x is None or not length > 0:
            self.tally["coalitions indefinite"] += 1
            x, length = [self.own(u, g_u) for u, g_u in enumerate(scaled)], 1.0
        back = [length * block.scale**0.5 * X for block, X in zip(self.blocks, x, strict=True)]
        return side_by_side(b.player.from_matrix(X[None]) for b, X in zip(self.blocks, back, strict=True))

    def half(self, d: Params) -> Params:
        raise NotImplementedError("A cooperative metric has no cheap square root; OCNOpt refuses what would need it.")

    def printed(self, g: Matrices) -> Matrices | None:
        """(𝔸⁻¹)_uu ⊗ (𝔹⁻¹)_uu g_u − Σ_v (𝔸⁻¹)_uv ⊗ (𝔹⁻¹)_uv g_v; None where 𝔸 or 𝔹 is indefinite."""
        try:
            A, B = self.stacked_inverse(0), self.stacked_inverse(1)
        except DecompositionError:
            return None
        signs = [[1.0 if u == v else -1.0 for v in range(len(g))] for u in range(len(g))]
        return [
            sum(signs[u][v] * B[u][v] @ g_v @ A[u][v].mT for v, g_v in enumerate(g))  # type: ignore[misc]
            for u in range(len(g))
        ]

    def stacked_inverse(self, side: int) -> list[Sequence[Tensor]]:
        """Blocks of 𝔸⁻¹ (side 0) or 𝔹⁻¹ (side 1)."""
        own = (self.A, self.B)[side]
        sizes = [X.shape[0] for X in own]
        rows = [[self.block(side, u, v) for v in range(len(own))] for u in range(len(own))]
        inverse = torch.cholesky_inverse(cholesky(torch.cat([torch.cat(row, 1) for row in rows]), self.tally))
        return [row.split(sizes, 1) for row in inverse.split(sizes)]

    def block(self, side: int, u: int, v: int) -> Tensor:
        own = (self.A, self.B)[side]
        if u == v:
            return own[u]
        known = self.cross.get((min(u, v), max(u, v)))
        if known is None:
            return own[u].new_zeros(own[u].shape[0], own[v].shape[0])
        return known[side] if u < v else known[side].mT

    def length(self, g: Matrices, x: Matrices) -> float:
        """⟨g, x⟩/⟨x, M x⟩, the best multiple of x."""
        slope, curvature = dot(g, x), dot(x, self.joint(x))
        return slope / curvature if curvature > 0 else 0.0

    def joint(self, x: Matrices) -> Matrices:
        """M x with own and cross blocks."""
        out = [B @ X @ A for A, B, X in zip(self.A, self.B, x, strict=True)]
        for (u, v), (A, B) in self.cross.items():
            out[u] = out[u] + B @ x[v] @ A.mT
            out[v] = out[v] + B.mT @ x[u] @ A
        return out

    def own(self, u: int, g: Tensor) -> Tensor:
        """The own block's inverse."""
        return torch.linalg.solve(self.B[u], torch.linalg.solve(self.A[u], g, left=False))
