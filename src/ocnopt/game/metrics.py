"""Joint metrics of a coalition: what each kind of game makes of own blocks M_u and cross blocks P_uv.

Feedback Nash: each player its own block, blind to what the others at its stage do. Cooperative (group
rationality): the whole matrix, solved together,

    [M_u  P_uv; P_vu  M_v] [δθ_u; δθ_v] = −[Q_u; Q_v]

by conjugate gradients, preconditioned by the own blocks (Chen, Liu, Theodorou, arXiv 2105.03788, theorem 3;
there in a product form, see ``product``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.protocols import Params
from ..core.stage import Metric
from ..curvature.metrics import MatrixMetric
from ..linalg.symmetric import Tally
from .coalition import divided, side_by_side
from .cross import Cross

Pair = tuple[int, int]
Matrices = list[Tensor]


@dataclass(frozen=True)
class BlockDiagonal:
    """M = diag(M_u, M_v, …), lengths: how many parameter tensors each block has."""

    blocks: Sequence[Metric]
    lengths: Sequence[int]

    @property
    def contains_own_block(self) -> bool:
        return all(block.contains_own_block for block in self.blocks)

    def solve(self, d: Params) -> Params:
        parts = zip(self.blocks, divided(d, self.lengths), strict=True)
        return side_by_side(block.solve(part) for block, part in parts)

    def half(self, d: Params) -> Params:
        parts = zip(self.blocks, divided(d, self.lengths), strict=True)
        return side_by_side(block.half(part) for block, part in parts)


@dataclass(frozen=True)
class Joint:
    """M with its cross blocks, by conjugate gradients.

    blocks: the own metrics, of Kronecker form.  cross: P_uv for u < v in the coordinates of their blocks.
    weights: R of every block where EKFAC has corrected its eigenvalues (see ``corrected``), else None.
    tolerance: of the residual in the norm of the preconditioner, relative to the right-hand side.
    iterations: the most that are made. Each takes one M_u⁻¹ and one product with every cross block.
    """

    blocks: Sequence[MatrixMetric]
    lengths: Sequence[int]
    cross: Mapping[Pair, Cross]
    weights: Sequence[Tensor | None]
    tolerance: float
    iterations: int
    tally: Tally = field(default_factory=Tally)
    contains_own_block = True

    def solve(self, d: Params) -> Params:
        """M⁻¹ d, without leading dimensions."""
        parts = zip(self.blocks, divided(d, self.lengths), strict=True)
        g = [block.enter(part) for block, part in parts]
        x, sound = conjugate_gradients(g, self.precondition, self.couple, self.tolerance, self.iterations)
        if not sound:
            self.tally["coalitions indefinite"] += 1
        return side_by_side(block.leave(X) for block, X in zip(self.blocks, x, strict=True))

    def half(self, d: Params) -> Params:
        raise NotImplementedError("A cooperative metric has no cheap square root; OCNOpt refuses what would need it.")

    def precondition(self, X: Matrices) -> Matrices:
        """M_u⁻¹ X_u of every block."""
        return [block.inverse(x) for block, x in zip(self.blocks, X, strict=True)]

    def couple(self, X: Matrices) -> Matrices:
        """Σ_v P_uv X_v of every block: the matrix without its own blocks."""
        X = [self.weigh(u, x) for u, x in enumerate(X)]
        out = [torch.zeros_like(x) for x in X]
        for (u, v), (A, B) in self.cross.items():
            out[u] += B @ X[v] @ A.mT
            out[v] += B.mT @ X[u] @ A
        return [self.weigh(u, x) for u, x in enumerate(out)]

    def weigh(self, u: int, X: Tensor) -> Tensor:
        R, scale = self.weights[u], self.blocks[u].scale ** -0.5
        return X * scale if R is None else X * (R * scale)


def conjugate_gradients(
    g: Matrices,
    precondition: Callable[[Matrices], Matrices],
    couple: Callable[[Matrices], Matrices],
    tolerance: float,
    iterations: int,
) -> tuple[Matrices, bool]:
    """x with (M + P) x = g, M block diagonal by its inverse alone, P the coupling; whether no curvature was negative.

    The search directions p = z + β p, with z = M⁻¹ r, carry M p = r + β M p along, so that M itself is never
    needed. Starting from zero, every iterate lowers ½ xᵀ(M + P)x − gᵀx, and −x is a direction of descent.
    """
    r, x = g, [torch.zeros_like(X) for X in g]
    z = precondition(r)
    p, Mp = z, r
    rz = rz_first = dot(r, z)
    for i in range(iterations):
        if rz <= tolerance**2 * rz_first:
            break
        w = axpy(1.0, couple(p), Mp)
        curvature = dot(p, w)
        if not curvature > 0:
            return (x if i else z), False
        step = rz / curvature
        x, r = axpy(step, p, x), axpy(-step, w, r)
        z = precondition(r)
        rz, before = dot(r, z), rz
        p, Mp = axpy(rz / before, p, z), axpy(rz / before, Mp, r)
    return x, True


def dot(X: Matrices, Y: Matrices) -> float:
    return float(sum(torch.sum(x * y) for x, y in zip(X, Y, strict=True)))


def axpy(a: float, X: Matrices, Y: Matrices) -> Matrices:
    """a X + Y."""
    return [torch.add(y, x, alpha=a) for x, y in zip(X, Y, strict=True)]
