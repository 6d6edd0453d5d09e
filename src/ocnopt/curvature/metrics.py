"""Metrics M_t: symmetric positive definite operators on the parameters of one player.

Each knows M⁻¹, a square root of it, and the rotation of rows in which it becomes elementwise:
for matrix players, M⁻¹ = (rotate back) ∘ D ∘ (rotate).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

import torch
from torch import Tensor

from ..core.compiling import compilable
from ..core.protocols import MatrixPlayer, Params, masked
from ..core.stage import Metric
from ..linalg.blocks import blockwise, is_whole, right, right_transposed
from ..linalg.kronecker import from_basis, product, to_basis


@dataclass(frozen=True)
class DiagonalMetric:
    """M = diag(m)/scale: a tensor or number m and a number scale for every parameter.

    seen: for every parameter 1 where the feedback may steer it and 0 where not, None for everywhere; see ``seen_by``.
    """

    m: Sequence[Tensor | float]
    scale: Sequence[float]
    seen: Sequence[Tensor | None] | None = None
    contains_own_block = False

    def solve(self, d: Params) -> Params:
        return tuple(torch._foreach_mul(d, self.inverses))

    def half(self, d: Params) -> Params:
        return tuple(x * inverse.to(x).sqrt() for x, inverse in zip(d, self.steering, strict=True))

    def half_rows(self, X: Tensor, row: Tensor) -> Tensor:
        """``half`` of rows X (..., K, n) of the first parameter, whose numbers are row (K,)."""
        inverse = self.steering[0].to(X)
        return X * (inverse.sqrt() if inverse.dim() == 0 else inverse[row].sqrt())

    @cached_property
    def inverses(self) -> Params:
        """The diagonals of M⁻¹."""
        known = [m for m in self.m if isinstance(m, Tensor)]
        if not known or len(known) < len(self.m):
            return tuple(doubled(s / m) for m, s in zip(self.m, self.scale, strict=True))
        found = torch._foreach_reciprocal(known)
        torch._foreach_mul_(found, [*self.scale])
        return tuple(found)

    def guarded(self, faint: float) -> DiagonalMetric:
        """M that is not steered where it knows next to nothing."""
        return replace(self, seen=seen_by(self.m, faint))

    @cached_property
    def steering(self) -> Params:
        """The inverses of what the feedback may steer, zero elsewhere."""
        return masked(self.inverses, self.seen)

    def rotate_rows(self, player: MatrixPlayer, Z: Tensor, U: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        inverses = self.steering
        full = (x.to(p).expand_as(p) for x, p in zip(inverses, player.parameters, strict=True))
        D = player.to_matrix(tuple(full))
        if all(x.dim() == 0 for x in inverses):  # all outputs have the same row of D, which Z can take along
            return Z * D[:, None, None, 0].sqrt(), U, None
        return Z, U, D


class MatrixMetric:
    """M⁻¹ of a matrix player: into coordinates X (..., g, n_out, n_in), an inverse there, and back."""

    contains_own_block = True
    player: MatrixPlayer
    scale: float

    @property
    def bases(self) -> tuple[Tensor | None, Tensor | None]:
        """U_A and U_B, in blocks of the factors, that turn the player's matrices into X, None for the identity."""
        return None, None

    def enter(self, d: Params) -> Tensor:
        """X of a parameter-shaped d."""
        raise NotImplementedError

    def inverse(self, X: Tensor) -> Tensor:
        """M⁻¹ X in these coordinates."""
        raise NotImplementedError

    def leave(self, X: Tensor) -> Params:
        """The parameter-shaped d of X."""
        raise NotImplementedError

    def solve(self, d: Params) -> Params:
        return self.leave(self.inverse(self.enter(d)))


@dataclass(frozen=True)
class KroneckerMetric(MatrixMetric):
    """M = (A ⊗ B)/scale by the inverses of A and B, factors of n_in and n_out rows (see ``linalg.blocks``)."""

    player: MatrixPlayer
    inverse_A: Tensor
    inverse_B: Tensor
    scale: float

    def enter(self, d: Params) -> Tensor:
        return self.player.to_matrix(d).to(self.inverse_A.dtype)

    def inverse(self, X: Tensor) -> Tensor:
        return self.scale * product(X, self.inverse_A, self.inverse_B)

    def leave(self, X: Tensor) -> Params:
        return self.player.from_matrix(X)

    def half(self, d: Params) -> Params:
        R_A, R_B = self.roots()
        X = self.player.to_matrix(d).to(self.inverse_A.dtype)
        return self.player.from_matrix(self.scale**0.5 * product(X, R_A, R_B))

    def rotate_rows(self, player: MatrixPlayer, Z: Tensor, U: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        R_A, R_B = self.roots()
        return self.scale**0.5 * apply_rows(Z, R_A), apply_rows(U, R_B), None

    def roots(self) -> tuple[Tensor, Tensor]:
        """R with Rᵀ R equal to the inverse factor."""
        return root(self.inverse_A), root(self.inverse_B)


@dataclass(frozen=True)
class EigenMetric(MatrixMetric):
    """M = U (S + λ) Uᵀ/scale in the Kronecker eigenbasis U_A ⊗ U_B, S (g, n_out, n_in); None is the identity."""

    player: MatrixPlayer
    U_A: Tensor | None
    U_B: Tensor | None
    S: Tensor
    damping: float
    scale: float

    @property
    def bases(self) -> tuple[Tensor | None, Tensor | None]:
        return self.U_A, self.U_B

    @cached_property
    def eigenvalues(self) -> Tensor:
        """Of M, (g, n_out, n_in)."""
        return eigenvalues(self.S, self.damping, self.scale)

    @cached_property
    def D(self) -> Tensor:
        """Inverse eigenvalues of M."""
        return self.eigenvalues.reciprocal()

    def enter(self, d: Params) -> Tensor:
        return to_basis(self.player.to_matrix(d).to(self.S.dtype), self.U_A, self.U_B)

    def inverse(self, X: Tensor) -> Tensor:
        return X / self.eigenvalues

    def solve(self, d: Params) -> Params:
        X = self.player.to_matrix(d).to(self.S.dtype)
        return self.player.from_matrix(solve_in_basis(X, self.U_A, self.U_B, self.eigenvalues))

    def leave(self, X: Tensor) -> Params:
        return self.player.from_matrix(from_basis(X, self.U_A, self.U_B))

    def half(self, d: Params) -> Params:
        return self.leave(self.enter(d) * self.D.sqrt())

    def rotate_rows(self, player: MatrixPlayer, Z: Tensor, U: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        return turned(Z, self.U_A), turned(U, self.U_B), self.D

    def costs(self, rows: int) -> tuple[int, int]:
        """Multiplications of a solve, there and back, and of turning so many rows z and u."""
        g, n_out, n_in = self.S.shape
        a, b = (0 if U is None else U.shape[-1] for U in self.bases)
        return 2 * g * n_out * n_in * (a + b), g * rows * (n_in * a + n_out * b)


def solve_all(metrics: Sequence[Metric], ds: Sequence[Params]) -> list[Params]:
    """M⁻¹ d of every player, that of all diagonals in one call."""
    pairs = [*zip(metrics, ds, strict=True)]
    diagonals = [(M, d) for M, d in pairs if isinstance(M, DiagonalMetric)]
    joint = DiagonalMetric([m for M, _ in diagonals for m in M.m], [s for M, _ in diagonals for s in M.scale])
    found = iter(joint.solve(tuple(x for _, d in diagonals for x in d)) if diagonals else ())
    return [tuple(islice(found, len(d))) if isinstance(M, DiagonalMetric) else M.solve(d) for M, d in pairs]


def eigenvalues(S: Tensor, damping: float | Tensor, scale: float | Tensor) -> Tensor:
    """(S + λ)/scale."""
    sums = S + damping
    return sums if isinstance(scale, float) and scale == 1 else sums / scale


def solve_in_basis(X: Tensor, U_A: Tensor | None, U_B: Tensor | None, E: Tensor) -> Tensor:
    """U (UᵀX / E): M⁻¹ of eigenvalues E, where None stands for the identity."""
    return from_basis(to_basis(X, U_A, U_B) / E, U_A, U_B)


eigenvalues = compilable(eigenvalues)(eigenvalues)
solve_in_basis = compilable(solve_in_basis)(solve_in_basis)


def seen_by(m: Sequence[Tensor | float], faint: float) -> list[Tensor | None] | None:
    """Which entries of a player's vectors have second moments that are more than rounding, beside its matrix.

    A bias in front of a batch norm has no gradient, so 1/m is as large as ε allows. Its pulls with unequal
    weights on the samples are not zero all the same, since the norm mixes samples: steered by them it would
    go anywhere. It takes the open-loop step. None where there is nothing to compare.

    faint: entries of vectors below this times the root mean square over the matrix are not seen.
    """
    matrices = [x for x in m if isinstance(x, Tensor) and x.dim() > 1]
    if not matrices or len(matrices) == len(m):
        return None
    sizes = [torch.linalg.vector_norm(x) * (faint / x.numel() ** 0.5) for x in matrices]
    floor = sizes[0] if len(sizes) == 1 else torch.stack(sizes).max()
    return [(x > floor).to(x.dtype) if isinstance(x, Tensor) and x.dim() == 1 else None for x in m]


def doubled(x: Tensor | float) -> Tensor:
    """A number as a tensor that loses none of its digits."""
    return x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.float64)


def root(inverse: Tensor) -> Tensor:
    """R with Rᵀ R = inverse (g, n, b); of a diagonal (g, n), its square root."""
    return inverse.sqrt() if inverse.dim() == 2 else blockwise(lambda X: torch.linalg.cholesky(X).mT, inverse)


def apply_rows(X: Tensor, R: Tensor) -> Tensor:
    """R x for every row x of X (..., g, N, P, n)."""
    if R.dim() == 2:
        return X.to(R) * R[:, None, None]
    return X.to(R) @ R.mT[:, None] if is_whole(R) else by_rows(right_transposed, X.to(R), R)


def turned(X: Tensor, U: Tensor | None) -> Tensor:
    """Uᵀ x for every row x of X (..., g, N, P, n), where None stands for the identity."""
    if U is None:
        return X
    return X.to(U) @ U[:, None] if is_whole(U) else by_rows(right, X.to(U), U)


def by_rows(product: Callable[[Tensor, Tensor], Tensor], X: Tensor, F: Tensor) -> Tensor:
    """A product of rows with a factor, for X (..., g, N, P, n)."""
    return product(X.flatten(-3, -2), F).unflatten(-2, X.shape[-3:-1])
