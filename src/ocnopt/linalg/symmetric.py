"""Factorisations of symmetric positive semi-definite matrices, with a ladder of fallbacks.

A factorisation may meet a matrix that rounding has pushed off the cone, or that a solver
cannot split. Each rung of the ladder is a named line: retry in double, add jitter, give up.
Whoever calls counts what happened in a ``Tally`` and shows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

Tally = Counter[str]
"""How often each fallback was taken, by name."""

BLOCK = 512
"""Rows of a large matrix that are made at once."""

JITTERS = (1e-6, 1e-4, 1e-2)


class DecompositionError(ArithmeticError):
    """No rung of the ladder could factorise the matrix. count: the name under which that is counted."""

    count = "decomposition failed"


class MemoryExhausted(DecompositionError):
    """There was no room for the factorisation, and none of the ladder's rungs takes less."""

    count = "decomposition out of memory"


@contextmanager
def in_memory() -> Iterator[None]:
    """torch's two ways to say that memory is exhausted, as one error."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            raise MemoryExhausted(str(error)) from error
        raise


def symmetrize(A: Tensor) -> Tensor:
    """(A + Aᵀ)/2 for matrices (..., n, n)."""
    return (A + A.mT) / 2


def mirrored(A: Tensor) -> Tensor:
    """The symmetric matrix (n, n) of which A holds the lower half; in place, block by block."""
    for start in range(0, len(A), BLOCK):
        block = A[start : start + BLOCK]
        A[:start, start : start + BLOCK] = block[:, :start].mT
        own = block[:, start : start + BLOCK].tril()
        block[:, start : start + BLOCK] = own + own.tril(-1).mT
    return A


def mean_diagonal(A: Tensor) -> Tensor:
    """Average eigenvalue tr(A)/n of matrices (..., n, n), shape (..., 1, 1)."""
    return diagonal_of(A).mean(-1)[..., None, None]


def diagonal_of(A: Tensor) -> Tensor:
    """Of matrices (..., n, n): (..., n), a view."""
    return A.diagonal(dim1=-2, dim2=-1)


def add_diagonal(A: Tensor, d: Tensor | float) -> Tensor:
    """A + d·I for matrices A (..., n, n) and d a number or (..., 1, 1)."""
    sum_ = A.clone()
    diagonal_of(sum_).add_(d[..., 0] if isinstance(d, Tensor) else d)
    return sum_


@in_memory()
def cholesky(A: Tensor, tally: Tally) -> Tensor:
    """Lower factor L with L Lᵀ = A (..., n, n); jitter relative to the mean diagonal is added in double if it must.

    Raises DecompositionError when A is not finite or stays indefinite with the largest jitter.
    """
    L, info = torch.linalg.cholesky_ex(A)
    if not bool(info.any()) and bool(diagonal_of(L).isfinite().all()):  # where whatever is not finite in a row arrives
        return L
    require_finite(A)
    A64 = symmetrize(A.double())
    for jitter in (0.0, *JITTERS):
        L, info = torch.linalg.cholesky_ex(add_diagonal(A64, jitter * mean_diagonal(A64).abs()))
        if not bool(info.any()):
            tally["cholesky in double" if jitter == 0.0 else "cholesky with jitter"] += 1
            return L.to(A.dtype)
    raise DecompositionError(f"The {tuple(A.shape)} matrix is not positive definite, even with jitter {JITTERS[-1]:g}.")


@in_memory()
def eigh(A: Tensor, tally: Tally) -> tuple[Tensor, Tensor]:
    """Eigenvalues, clipped at zero, and eigenvectors of A (..., n, n).

    Raises DecompositionError when A is not finite or no retry converges.
    """
    require_finite(A)
    for rung, raised in EIGH_LADDER:
        try:
            values, vectors = torch.linalg.eigh(symmetrize(raised(A)))
        except torch.linalg.LinAlgError:
            continue
        if bool(vectors.isfinite().all()):
            tally.update([rung] if rung else [])
            # In rows, not in LAPACK's columns: a copy that was loaded must multiply with the same rounding.
            return values.clamp(min=0).to(A.dtype), vectors.to(A.dtype).contiguous()
    raise DecompositionError(f"The eigenvectors of a {tuple(A.shape)} matrix did not converge, in single or in double.")


def jittered(A: Tensor) -> Tensor:
    """A in double with a graded diagonal that splits coincident eigenvalues."""
    n = A.shape[-1]
    ramp = torch.linspace(1.0, 2.0, n, dtype=torch.float64, device=A.device)
    return A.double() + 1e-6 * mean_diagonal(A.double()).abs() * torch.diag(ramp)


def require_finite(A: Tensor) -> None:
    """Raise DecompositionError when an entry of A is NaN or infinite."""
    if not bool(A.isfinite().all()):
        raise DecompositionError(f"The {tuple(A.shape)} matrix has entries that are not finite.")


EIGH_LADDER = (("", lambda A: A), ("eigh in double", Tensor.double), ("eigh with jitter", jittered))
"""What is tried in turn, and the name under which it is counted."""
