"""Cores C of low-rank value Hessians Y C Yᵀ: shrinking them can never make them indefinite."""

from __future__ import annotations

import torch
from torch import Tensor

from .symmetric import symmetrize


def shrink(C: Tensor, G: Tensor) -> Tensor:
    """(C⁻¹ + G)⁻¹ = (I + CG)⁻¹C for symmetric C, G ⪰ 0, shapes (..., r, r).

    C need not be invertible. The form C − CGC of the papers is this to first order only and
    turns negative as soon as the metric is smaller than the true curvature (DESIGN, fact 2).
    """
    if C.shape[-1] == 1:
        return C / (1 + C * G)
    eye = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device)
    return symmetrize(torch.linalg.solve_ex(eye + C @ G, C)[0])  # not finite where singular, which callers look for


def solve_shrunk(C: Tensor, G: Tensor, b: Tensor) -> Tensor:
    """(I + CG)⁻¹b for symmetric C ⪰ 0, G ⪰ 0 (r, r) and b (r,); a diagonal C costs no product of matrices."""
    diagonal = C.diagonal()
    weighed = diagonal[:, None] * G if torch.equal(C, torch.diag(diagonal)) else C @ G
    weighed.diagonal().add_(1.0)
    return torch.linalg.solve(weighed, b)


def shrink_first_order(C: Tensor, G: Tensor) -> tuple[Tensor, int]:
    """C − CGC as printed in the papers, rank one (..., 1, 1), held at zero where it would turn negative.

    Returns the core and the number of entries that had to be held.
    """
    shrunk = C - C * G * C
    negative = shrunk < 0
    return shrunk.masked_fill(negative, 0.0), int(negative.sum())
