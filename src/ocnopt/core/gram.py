"""G = (f_θᵀY)ᵀ M⁻¹ (f_θᵀY): how strongly the columns of the value Hessian see a layer's parameters.

For a matrix player f_θᵀ Y_ij = Σ_p u_p z_pᵀ. Every metric turns into an elementwise one after a
rotation of the rows u and z, so G is made of rows and one matrix D of inverse curvatures. Products
per sample are formed only where positions must be summed first, in chunks of bounded memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .stage import Stage

CHUNK = 2**24
"""Largest number of elements that a per-sample product may hold at once."""


class Rows(NamedTuple):
    """Rotated rows of one call: Z (g, N, P, n_in), U (r, g, N, P, n_out)."""

    Z: Tensor
    U: Tensor


def sample_gram(stage: Stage) -> Tensor:
    """G of every sample by itself: (N, r, r)."""
    if stage.products is not None or not getattr(stage.player, "is_matrix", False):
        W = stage.metric.half(stage.products or stage.sample_products())
        return sum(torch.einsum("jnp,knp->njk", w.flatten(2), w.flatten(2)) for w in W)  # type: ignore[return-value]
    rows, D = rotated_rows(stage)
    if len(rows) == 1 and rows[0].Z.shape[2] == 1:
        return single_sample_gram(*rows[0], D)
    n_out = rows[0].U.shape[-1]
    return sum(  # type: ignore[return-value]
        torch.einsum("jngoi,kngoi->njk", X, X) for X in products(rows, D, chunk_of(rows, stage), n_out)
    )


def single_sample_gram(Z: Tensor, U: Tensor, D: Tensor | None) -> Tensor:
    """One position per sample: Σ_oi U_jo U_ko D_oi z_i², never forming the product u zᵀ."""
    z2 = Z[:, :, 0].square()
    T = z2.sum(-1, keepdim=True) if D is None else z2 @ D.mT
    U = U[:, :, :, 0]
    return torch.einsum("jgno,kgno,gno->njk", U, U, T.expand(*T.shape[:-1], U.shape[-1]))


def coupled_gram(stage: Stage) -> Tensor:
    """G between all samples and columns: (R, R), row n·r + j for sample n, column j."""
    if stage.products is not None or not getattr(stage.player, "is_matrix", False):
        W = stage.metric.half(stage.products or stage.sample_products())
        flat = torch.cat([w.flatten(2) for w in W], dim=-1)
        return outer_gram(flat)
    rows, D = rotated_rows(stage)
    if len(rows) == 1 and rows[0].Z.shape[2] == 1:
        return single_coupled_gram(*rows[0], D)
    n_out = rows[0].U.shape[-1]
    return sum(  # type: ignore[return-value]
        outer_gram(X.flatten(2)) for X in products(rows, D, chunk_of(rows, stage), n_out)
    )


def single_coupled_gram(Z: Tensor, U: Tensor, D: Tensor | None) -> Tensor:
    """One position per sample: Γ = (U Uᵀ) ∘ (Z Zᵀ), or Σ_o (u_o u_oᵀ) ∘ (Z D_o Zᵀ) where D does not factor."""
    Z, U = Z[:, :, 0], U[:, :, :, 0].permute(1, 2, 0, 3)  # (g, N, i), (g, N, r, o)
    if D is None:
        return torch.einsum("gnm,gnjo,gmko->njmk", Z @ Z.mT, U, U).flatten(2).flatten(0, 1)
    total = Z.new_zeros(U.shape[1], U.shape[2], U.shape[1], U.shape[2])
    for o in range(U.shape[-1]):
        total += torch.einsum("gnm,gnj,gmk->njmk", (Z * D[:, None, o]) @ Z.mT, U[..., o], U[..., o])
    return total.flatten(2).flatten(0, 1)


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


def chunk_of(rows: list[Rows], stage: Stage) -> int:
    """How many output rows of [W b] fit into CHUNK elements of per-sample products."""
    per_output = stage.rank * stage.samples.count * rows[0].Z.shape[0] * rows[0].Z.shape[-1]
    return max(1, CHUNK // per_output)


def products(rows: list[Rows], D: Tensor | None, chunk: int, n_out: int):
    """Whitened per-sample products √D ∘ Σ_p u_p z_pᵀ as (r, N, g, o, n_in), a chunk of outputs o at a time."""
    for start in range(0, n_out, chunk):
        o = slice(start, start + chunk)
        X = sum(torch.einsum("rgnpo,gnpi->rngoi", U[..., o], Z) for Z, U in rows)
        yield X if D is None else X * D[:, o].sqrt()


def outer_gram(X: Tensor) -> Tensor:
    """X Xᵀ for X (r, N, n): (R, R) with row n·r + j."""
    flat = X.transpose(0, 1).flatten(0, 1)
    return flat @ flat.mT
