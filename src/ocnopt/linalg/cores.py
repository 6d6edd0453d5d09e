"""Cores C of low-rank value Hessians Y C Yᵀ: shrinking them can never make them indefinite."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .symmetric import DecompositionError, Tally, in_memory, mirrored, symmetrize


def shrink(C: Tensor, G: Tensor) -> Tensor:
    """(C⁻¹ + G)⁻¹ = (I + CG)⁻¹C for symmetric C, G ⪰ 0, shapes (..., r, r).

    C need not be invertible. The form C − CGC of the papers is this to first order only and
    turns negative as soon as the metric is smaller than the true curvature (DESIGN, fact 2).
    """
    if C.shape[-1] == 1:
        return C / (1 + C * G)
    eye = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device)
    return symmetrize(torch.linalg.solve_ex(eye + C @ G, C)[0])  # not finite where singular, which callers look for


class Rooted(NamedTuple):
    """I + CG = S(I + SGS)S⁻¹ for a diagonal C = S² > 0, by the Cholesky factor L of I + SGS.  S: (N, r)."""

    S: Tensor
    L: Tensor

    def solve(self, b: Tensor) -> Tensor:
        """(I + CG)⁻¹b for b (N, r)."""
        y = torch.linalg.solve_triangular(self.L, (b / self.S).view(-1, 1), upper=False)
        return self.S * torch.linalg.solve_triangular(self.L.mT, y, upper=True).view_as(b)


class Eliminated(NamedTuple):
    """I + CG = S(LU)S⁻¹ with pivots.  S: (N, r) or 1."""

    S: Tensor | float
    LU: Tensor
    pivots: Tensor

    def solve(self, b: Tensor) -> Tensor:
        """(I + CG)⁻¹b for b (N, r)."""
        return self.S * torch.linalg.lu_solve(self.LU, self.pivots, (b / self.S).view(-1, 1)).view_as(b)


System = Rooted | Eliminated


def factorised(C: Tensor, G: Tensor, tally: Tally) -> System:
    """I + CG, ready to be solved. Only the lower half of G is read, and G is overwritten.

    A diagonal C = S² > 0 takes one Cholesky factorisation, of I + SGS. Where rounding has made that indefinite, which
    is counted, and for any other C, it is elimination with pivots.
    """
    S = positive_root(C)
    if S is not None:
        A = G if bool((S == 1).all()) else G.mul_(S.flatten()[:, None]).mul_(S.flatten())
        A.diagonal().add_(1.0)
        L = factor(A, tally)
        if L is not None:
            return Rooted(S, L)
        return Eliminated(S, *torch.linalg.lu_factor(mirrored(A)))
    weighed = (C @ mirrored(G).view(len(C), -1, len(G))).view_as(G)
    weighed.diagonal().add_(1.0)
    return Eliminated(1.0, *torch.linalg.lu_factor(weighed))


def factor(A: Tensor, tally: Tally) -> Tensor | None:
    """Lower Cholesky factor of the system A; None, counted, where it is indefinite or memory is exhausted."""
    try:
        with in_memory():
            L, info = torch.linalg.cholesky_ex(A)
    except DecompositionError as error:
        tally[error.count] += 1
        return None
    if not bool(info):
        return L
    tally["coupled system not definite"] += 1
    return None


def positive_root(C: Tensor) -> Tensor | None:
    """√ of the diagonals (N, r) of blocks (N, r, r) that are diagonal and positive; None for others."""
    diagonal = C.diagonal(dim1=1, dim2=2)
    return diagonal.sqrt() if torch.equal(C, diagonal.diag_embed()) and bool((diagonal > 0).all()) else None


def shrink_first_order(C: Tensor, G: Tensor) -> tuple[Tensor, int]:
    """C − CGC as printed in the papers, rank one (..., 1, 1), held at zero where it would turn negative.

    Returns the core and the number of entries that had to be held.
    """
    shrunk = C - C * G * C
    negative = shrunk < 0
    return shrunk.masked_fill(negative, 0.0), int(negative.sum())
