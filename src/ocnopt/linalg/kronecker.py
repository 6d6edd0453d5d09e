"""A ⊗ B acting on matrices X (..., g, n_out, n_in): (A ⊗ B) vec X = vec(B X Aᵀ). Factors are those of ``blocks``."""

from __future__ import annotations

from torch import Tensor

from .blocks import left, left_transposed, right, right_transposed


def product(X: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """B X Aᵀ for X (..., g, n_out, n_in) and factors of these sides."""
    X = X * A[:, None, :] if A.dim() == 2 else right_transposed(X, A)
    return X * B[:, :, None] if B.dim() == 2 else left(B, X)


def to_basis(X: Tensor, U_A: Tensor | None, U_B: Tensor | None) -> Tensor:
    """U_Bᵀ X U_A: coordinates of X in the Kronecker eigenbasis, where None stands for the identity."""
    if U_A is not None and U_B is not None:
        return right(left_transposed(U_B, X), U_A)
    X = X if U_A is None else right(X, U_A)
    return X if U_B is None else left_transposed(U_B, X)


def from_basis(X: Tensor, U_A: Tensor | None, U_B: Tensor | None) -> Tensor:
    """U_B X U_Aᵀ, the inverse of ``to_basis`` for orthogonal U."""
    if U_A is not None and U_B is not None:
        return right_transposed(left(U_B, X), U_A)
    X = X if U_A is None else right_transposed(X, U_A)
    return X if U_B is None else left(U_B, X)
