"""Kronecker factors of the Gauss-Newton block of a matrix player (Martens and Grosse, arXiv 1503.05671).

With Σ_p u_p z_pᵀ the contribution of one sample, u drawn so that E[u uᵀ] carries the loss's Hessian,

    block ≈ A ⊗ B,   A = mean over samples and positions of z zᵀ,   B = Σ over samples and positions of u uᵀ.

The 1/B of the loss is inside u. Several calls and positions are averaged in A and summed in B (the
"expand" convention of shared weights). The calls of one solve of an ODE move together instead: with weights w_t that
sum to T, and u_t = w_t g_t, they have A = Σ w_t z zᵀ / T and B = T Σ w_t g gᵀ, which do not depend on their number
(∫ z zᵀ dt ⊗ ∫ g gᵀ dt of SNOpt, arXiv 2109.14158). The share of such a call is w_t / T.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import groupby
from typing import NamedTuple

import torch
from torch import Tensor

from ..core.gram import per_sample
from ..core.protocols import MatrixPlayer
from ..core.trajectory import Call, narrowed
from ..linalg.blocks import gram, right
from ..linalg.kronecker import to_basis
from .metrics import turned

CHUNK = 2**24
"""Elements of per-sample products that are held at once, unless those of one sample are more."""


class Evidence(NamedTuple):
    """One call's rows for statistics: Z (g, m, P, n_in), U (r, g, m, P, n_out), and what each row of U counts."""

    Z: Tensor
    U: Tensor
    weight: float
    sweep: int
    share: float = 1.0


def evidence(player: MatrixPlayer, calls: Sequence[Call], batch: int, rows: int) -> list[Evidence]:
    """Rows of all calls, of as few samples as give about ``rows`` in all; batch: samples of the whole step."""
    each = -(-rows // max(1, len(calls)))
    return [one_call(player, call, batch, each) for call in calls]


def private(player: MatrixPlayer, share: float) -> list[Evidence]:
    """A row for curvature that no call shows, on this rank ``share`` of it. It adds to B and leaves A as it is."""
    one = torch.ones(1, 1, 1, 1, dtype=player.parameters[0].dtype, device=player.parameters[0].device)
    return [Evidence(one, one[None], share * player.private, -1)] if player.private else []


def one_call(player: MatrixPlayer, call: Call, batch: int, rows: int) -> Evidence:
    positions = call.sizes[0][1:].numel() // player.width
    m = min(call.z.shape[0], -(-rows // max(1, positions)))
    part = narrowed(call, m)
    U, weight = curvature_columns(part, batch)
    return Evidence(player.inputs(part), player.outputs(part, U), weight * call.batch / m, call.sweep, call.share)


def curvature_columns(call: Call, batch: int) -> tuple[Tensor, float]:
    """Vectors U (r, B, ...) and a weight with weight·Σ u uᵀ the output curvature seen by the call.

    Draws of the Fisher matrix where they are at hand, else the columns of a terminal factor of the form Y Yᵀ, and the
    given cotangents (the empirical Fisher matrix, v = g/B) last.
    """
    drawn = call.drawn
    if drawn is not None:
        return drawn.unsqueeze(0), 1.0
    if call.columns:
        return call.Y, 1.0
    return call.v.unsqueeze(0), float(batch)


def factor_A(parts: Sequence[Evidence], width: int) -> Tensor:
    """A: mean of z zᵀ over all rows, in blocks of so many (see ``linalg.blocks``)."""
    total = sum(part.share * part.Z.shape[1] * part.Z.shape[2] for part in parts)
    return reduce(torch.add, (scaled_gram(part.share / total, part.Z.flatten(1, 2), width) for part in parts))


def factor_B(parts: Sequence[Evidence], width: int) -> Tensor:
    """B: sum of u uᵀ over all rows, in blocks of so many."""
    rows = (part.U.transpose(0, 1).flatten(1, 3) for part in parts)
    pairs = zip(parts, rows, strict=True)
    return reduce(torch.add, (scaled_gram(part.weight / part.share, U, width) for part, U in pairs))


def scaled_gram(weight: float, X: Tensor, width: int) -> Tensor:
    """w Σ x xᵀ over the rows of X. The factor may be far larger than they are, so that they take w along."""
    return gram(weight**0.5 * X, width) if weight > 0 else weight * gram(X, width)


def squared_products(parts: Sequence[Evidence], U_A: Tensor | None, U_B: Tensor | None) -> Tensor:
    """Σ over samples and columns of (U_Bᵀ (Σ_p u_p z_pᵀ) U_A)²: the block's diagonal in a basis, (g, n_out, n_in)."""
    if len(parts) == 1 and parts[0].Z.shape[2] == 1:
        Z, U = in_basis(parts[0].Z[:, :, 0], U_A), in_basis(parts[0].U[:, :, :, 0], U_B)
        return parts[0].weight * U.square().sum(0).mT @ Z.square()
    sweeps = groupby(sorted(parts, key=lambda part: part.sweep), key=lambda part: part.sweep)
    return torch.stack([one_sweep(list(group), U_A, U_B) for _, group in sweeps]).sum(0)


def one_sweep(parts: Sequence[Evidence], U_A: Tensor | None, U_B: Tensor | None) -> Tensor:
    """``squared_products`` of the calls of one sweep, which add before they are squared: their samples are the same."""
    m = min(part.Z.shape[1] for part in parts)
    weight = parts[0].weight * parts[0].Z.shape[1] / m
    largest = max(len(part.U) * part.Z[:, 0, 0].numel() * part.U.shape[-1] for part in parts)
    few = max(1, CHUNK // max(1, largest))
    some = (slice(start, min(start + few, m)) for start in range(0, m, few))
    return weight * sum(of_samples(parts, rows, U_A, U_B) for rows in some)  # type: ignore[return-value]


def of_samples(parts: Sequence[Evidence], rows: slice, U_A: Tensor | None, U_B: Tensor | None) -> Tensor:
    """Σ of the squared products of these samples, in the basis: of rows that are turned, or turned themselves."""
    if rows_are_fewer(parts, U_A, U_B):
        pairs = ((turned(part.Z[:, rows], U_A), turned(part.U[:, :, rows], U_B)) for part in parts)
        return per_sample(pairs).square().sum((0, 2))
    X = per_sample((part.Z[:, rows], part.U[:, :, rows]) for part in parts)
    return to_basis(X.transpose(1, 2), U_A, U_B).square().sum((0, 1))


def rows_are_fewer(parts: Sequence[Evidence], U_A: Tensor | None, U_B: Tensor | None) -> bool:
    """Whether turning the rows z and u of a sample takes fewer operations than turning its matrix Σ_p u_p z_pᵀ."""
    (n_in, a), (n_out, b) = ((0, 0) if U is None else U.shape[1:] for U in (U_A, U_B))
    positions = sum(part.Z.shape[2] for part in parts)
    matrix = parts[0].U.shape[-1] * parts[0].Z.shape[-1] * (a + b)
    return positions * (n_in * a + n_out * b) < matrix


def in_basis(X: Tensor, U: Tensor | None) -> Tensor:
    """Rows (..., g, m, n) in the basis U (g, n, b), None for the identity."""
    return X if U is None else right(X, U)
