"""What is made of a pair of Kronecker factors: damped inverses, and second moments carried into a new eigenbasis."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..linalg.blocks import blockwise, diagonal, is_whole, left, packed, pieces, right_transposed
from ..linalg.symmetric import Tally, add_diagonal, cholesky, eigh, mean_diagonal

INVERSE, BASIS, PRODUCT = 4e-11, 1.5e-10, 3e-11
"""Seconds per n³ of a damped inverse, of an eigenbasis and of a product in single precision, n from 256 to 1024, on
one thread of an AMD EPYC with torch 2.13 (``benchmarks/scaling.py`` measures them). Smaller matrices take up
to four times as long per n³; shares of work need no more than the order of magnitude."""


def cubes(X: Tensor) -> float:
    """Σ b³ over the blocks of X (g, n, b); nothing for a diagonal (g, n), which costs next to nothing."""
    return 0.0 if X.dim() == 2 else float(X.numel()) * X.shape[-1]


def pi_factor(A: Tensor, B: Tensor) -> Tensor:
    """π = √(mean eigenvalue of A / that of B), (g, 1, 1); one where either vanishes."""
    pi = (mean_eigenvalue(A) / mean_eigenvalue(B)).sqrt()
    return torch.where(pi.isfinite() & (pi > 0), pi, 1.0)


def mean_eigenvalue(X: Tensor) -> Tensor:
    """Of a factor, (g, 1, 1)."""
    if X.dim() == 3 and is_whole(X):
        return mean_diagonal(X)
    return diagonal(X).mean(-1)[:, None, None]


def dampings(A: Tensor, B: Tensor, damping: float) -> tuple[Tensor, Tensor]:
    """π√λ for A and √λ/π for B, each (g, 1, 1)."""
    pi, root = pi_factor(A, B), math.sqrt(damping)
    return pi * root, root / pi


def damped_inverse(A: Tensor, damping: Tensor, tally: Tally) -> Tensor:
    """(A + damping)⁻¹ for A (g, n, b), damping (g, 1, 1); of a diagonal (g, n), its diagonal."""
    if A.dim() == 2:
        return 1 / (A + damping[..., 0])

    def inverse(X: Tensor) -> Tensor:
        added = damping if X.dim() == 3 else damping[:, None]
        # In rows, as eigenvectors are: a copy that was loaded or received must multiply with the same rounding.
        return torch.cholesky_inverse(cholesky(add_diagonal(X, added), tally)).mT.contiguous()

    return blockwise(inverse, A)


def eigenbasis(X: Tensor, tally: Tally) -> tuple[Tensor, Tensor]:
    """Eigenvalues (g, n) of the blocks of X (g, n, b), and the basis, cut as X is."""
    if is_whole(X):
        return eigh(X, tally)
    found = [eigh(P, tally) for P in pieces(X)]
    return torch.cat([s.flatten(1) for s, _ in found], 1), packed([U for _, U in found])


def turn(new: Tensor | None, old: Tensor | None) -> Tensor | None:
    """The rotation from the old basis to the new one."""
    return None if new is None or old is None else blockwise(lambda x, y: x.mT @ y, new, old)


def carried(S: Tensor, V_A: Tensor | None, V_B: Tensor | None) -> Tensor:
    """S in a basis turned by V: E[(V_Bᵀ X V_A)²] for X with uncorrelated entries of second moment S."""
    S = S if V_A is None else right_transposed(S, V_A.square())
    return S if V_B is None else left(V_B.square(), S)
