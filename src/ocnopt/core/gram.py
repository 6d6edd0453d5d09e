"""G = (f_θᵀY)ᵀ M⁻¹ (f_θᵀY): how strongly the columns of the value Hessian see a layer's parameters.

For a matrix player f_θᵀ Y_ij = Σ_p u_p z_pᵀ. Every metric turns into an elementwise one after a
rotation of the rows u and z, so G is made of rows and one matrix D of inverse curvatures. Products
per sample are formed only where positions must be summed first, in chunks of bounded memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from ..linalg.symmetric import BLOCK, mirrored
from .lookup import is_lookup, products_of_touched, sample_lookup_gram
from .stage import Stage

CHUNK = 2**24
"""Largest number of elements that a per-sample product may hold at once."""
CACHED = 2**20
"""The same where each is read at once, entry by entry, and never again: what the caches of a processor hold."""
FEW = 16
"""Samples whose products are made together there."""


class Rows(NamedTuple):
    """Rotated rows of one call: Z (g, N, P, n_in), U (r, g, N, P, n_out)."""

    Z: Tensor
    U: Tensor


def sample_gram(stage: Stage) -> Tensor:
    """G of every sample by itself: (N, r, r)."""
    if is_lookup(stage):
        return sample_lookup_gram(stage)
    if stage.products is not None or not getattr(stage.player, "is_matrix", False):
        W = stage.metric.half(stage.products or stage.sample_products())
        return reduce(torch.add, (own_gram(w.flatten(2)[:, None, :, None]) for w in W))
    rows, D = rotated_rows(stage)
    if len(rows) == 1 and rows[0].Z.shape[2] == 1:
        return single_sample_gram(*rows[0], D)
    if rows[0].Z.device.type != "cpu":
        return gram_of(rows, D, CHUNK)
    return torch.cat([gram_of(some, D, min(CHUNK, CACHED)) for some in of_few_samples(rows)])


def of_few_samples(rows: list[Rows]) -> Iterator[list[Rows]]:
    """The rows of ``FEW`` samples after the other, so that a piece of their products still holds many outputs."""
    for start in range(0, rows[0].Z.shape[1], FEW):
        few = slice(start, start + FEW)
        yield [Rows(Z[:, few], U[:, :, few]) for Z, U in rows]


def gram_of(rows: list[Rows], D: Tensor | None, elements: int) -> Tensor:
    """G of every sample by itself (N, r, r), from pieces of so many elements."""
    return torch.stack([own_gram(X) for X in products(rows, D, outputs_within(elements, rows))]).sum(0)


def own_gram(X: Tensor) -> Tensor:
    """X_nj · X_nk of whitened per-sample products X (r, g, N, o, n_in): (N, r, r)."""
    if len(X) == 1:  # no copy of X in another order, as einsum makes one
        return torch.linalg.vector_norm(X[0], dim=(-2, -1)).square().sum(0)[:, None, None]
    return torch.einsum("jgnoi,kgnoi->njk", X, X)


def single_sample_gram(Z: Tensor, U: Tensor, D: Tensor | None) -> Tensor:
    """One position per sample: Σ_oi U_jo U_ko D_oi z_i², never forming the product u zᵀ."""
    z2, U = Z[:, :, 0].square(), U[:, :, :, 0]
    T = z2.sum(-1, keepdim=True) if D is None else z2 @ D.mT
    if len(U) == 1:
        return torch.linalg.vecdot(U[0], U[0] * T).sum(0)[:, None, None]
    return torch.einsum("jgno,kgno->njk", U, U * T)  # of three operands einsum looks for an order, every time


def coupled_gram(stage: Stage) -> Tensor:
    """G between all samples and columns: (R, R), row n·r + j for sample n, column j."""
    return summed_gram([stage], stage.precision)


def summed_gram(stages: Sequence[Stage], dtype: torch.dtype) -> Tensor:
    """The sum of the stages' coupled G (R, R), in this precision; half of it is computed.

    Beside it two blocks (BLOCK, R) are all that is in memory.
    """
    return mirrored(lower_gram(stages, dtype))


def lower_gram(stages: Sequence[Stage], dtype: torch.dtype) -> Tensor:
    """``summed_gram`` with numbers that mean nothing above the diagonal."""
    count = stages[0].samples.count * stages[0].rank
    G = torch.zeros(count, count, dtype=dtype, device=stages[0].gradient[0].device)
    for stage in stages:
        for term in terms(stage):
            for start in range(0, count, BLOCK):
                stop = min(start + BLOCK, count)
                G[start:stop, :stop] += term.block(slice(start, stop), dtype)
    return G


class Outer(NamedTuple):
    """W Wᵀ of per-sample products W (R, n)."""

    W: Tensor

    def block(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """These rows of G, up to the diagonal."""
        return self.W[rows].to(dtype) @ self.W[: rows.stop].to(dtype).mT


class Hadamard(NamedTuple):
    """(U Uᵀ) ∘ (Z Zᵀ): one position per sample in a metric that factors.  U (R, n_out), Z (R, n_in)."""

    U: Tensor
    Z: Tensor

    def block(self, rows: slice, dtype: torch.dtype) -> Tensor:
        """These rows of G, up to the diagonal."""
        return Outer(self.U).block(rows, dtype).mul_(Outer(self.Z).block(rows, dtype))


def terms(stage: Stage) -> Iterator[Outer | Hadamard]:
    """Parts that the stage's coupled G is the sum of."""
    if is_lookup(stage):
        yield Outer(sample_rows(products_of_touched(stage)))
        return
    if stage.products is not None or not getattr(stage.player, "is_matrix", False):
        W = stage.metric.half(stage.products or stage.sample_products())
        yield Outer(sample_rows(torch.cat([w.flatten(2) for w in W], dim=-1)))
        return
    rows, D = rotated_rows(stage)
    if D is None and len(rows) == 1 and rows[0].Z.shape[2] == 1:
        pairs = ((sample_rows(U), Z.repeat_interleave(len(U), 0)) for Z, U in single(*rows[0]))
        yield from (Outer(U * Z) if U.shape[1] == 1 else Hadamard(U, Z) for U, Z in pairs)
        return
    chunks = products(rows, D, outputs_within(CHUNK, rows))
    yield from (Outer(sample_rows(X.transpose(1, 2).flatten(2))) for X in chunks)


def single(Z: Tensor, U: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Z (N, n_in) and U (r, N, n_out) of every group, where there is one position."""
    yield from ((Z[g, :, 0], U[:, g, :, 0]) for g in range(len(Z)))


def sample_rows(X: Tensor) -> Tensor:
    """X (r, N, n) as (R, n), with row n·r + j."""
    return X.transpose(0, 1).flatten(0, 1)


def rotated_rows(stage: Stage) -> tuple[list[Rows], Tensor | None]:
    """Rows of every call in the coordinates where the metric is the elementwise D⁻¹ (g, n_out, n_in); None for D = 1.

    Calls of one sweep share its samples; a player called by several sweeps has rows of zeros elsewhere.
    """
    rows = []
    D = None
    for call, Y, where in stage.pairs:
        kept = where.stop - where.start
        Z, U = stage.player.inputs(call), stage.player.outputs(call, Y)  # type: ignore[attr-defined]
        Z, U, D = stage.metric.rotate_rows(stage.player, Z[:, :kept], U[:, :, :kept])  # type: ignore[attr-defined]
        rows.append(Rows(Z, U) if kept == stage.samples.count else spread(Z, U, where, stage.samples.count))
    return rows, D


def spread(Z: Tensor, U: Tensor, where: slice, count: int) -> Rows:
    """Rows of one sweep placed among those of all sweeps."""
    full_Z = Z.new_zeros(Z.shape[0], count, *Z.shape[2:])
    full_U = U.new_zeros(*U.shape[:2], count, *U.shape[3:])
    full_Z[:, where], full_U[:, :, where] = Z, U
    return Rows(full_Z, full_U)


def outputs_within(elements: int, rows: list[Rows]) -> int:
    """How many output rows of [W b] have per-sample products of so many elements."""
    Z, U = rows[0]
    return max(1, elements // (len(U) * Z[:, :, 0].numel()))


def products(rows: list[Rows], D: Tensor | None, chunk: int) -> Iterator[Tensor]:
    """Whitened per-sample products √D ∘ Σ_p u_p z_pᵀ as (r, g, N, o, n_in), a chunk of outputs o at a time."""
    scale = None if D is None else D.sqrt()
    for start in range(0, rows[0].U.shape[-1], chunk):
        part = slice(start, start + chunk)
        X = per_sample((Z, U[..., part]) for Z, U in rows)
        yield X if scale is None else X.mul_(scale[:, None, part])


def per_sample(rows: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
    """Σ_p u_p z_pᵀ of every sample, (r, g, N, n_out, n_in), added over the calls that the rows Z and U are of."""
    return reduce(torch.add, (U.mT @ Z for Z, U in rows))
