"""A ⊗ B acting on matrices X (..., g, n_out, n_in): (A ⊗ B) vec X = vec(B X Aᵀ)."""

from __future__ import annotations

from torch import Tensor


def product(X: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """B X Aᵀ for X (..., g, n_out, n_in), A (g, n_in, n_in), B (g, n_out, n_out); a factor (g, n) is a diagonal."""
    X = X * A[:, None, :] if A.dim() == 2 else X @ A.mT
    return X * B[:, :, None] if B.dim() == 2 else B @ X


def rotate(X: Tensor, U_A: Tensor, U_B: Tensor) -> Tensor:
    """U_Bᵀ X U_A: coordinates of X in the Kronecker eigenbasis."""
    return U_B.mT @ X @ U_A


def rotate_back(X: Tensor, U_A: Tensor, U_B: Tensor) -> Tensor:
    """U_B X U_Aᵀ, the inverse of ``rotate`` for orthogonal U."""
    return U_B @ X @ U_A.mT
