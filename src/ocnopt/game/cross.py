"""Cross blocks of the joint curvature of players that share a stage, in Kronecker form.

With Σ_p u_p z_pᵀ the contribution of one sample to player u's gradient, and Σ_q u'_q z'_qᵀ to v's,

    P_uv = Σ (Σ_p u_p z_pᵀ) ⊗ (Σ_q u'_q z'_qᵀ) ≈ A_uv ⊗ B_uv,   A_uv = E[z z'ᵀ],   B_uv = Σ u u'ᵀ

(Chen, Liu, Theodorou, arXiv 2105.03788), from the same rows as the players' own factors. Where both see the same
number of positions, position p of one meets position p of the other, and the stacked rows [z; z'] and [u; u']
make the joint factors Gram matrices. Where they do not, z̄, the mean over positions, meets z̄', and Σ_p u_p/√P
meets Σ_q u'_q/√Q: no more than the own factors hold, by Jensen and by Cauchy-Schwarz. Either way the joint matrix
of own and cross blocks is positive semi-definite.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..curvature.factors import Evidence
from ..curvature.kronecker import State, average
from ..linalg.blocks import is_whole
from ..linalg.kronecker import to_basis


class Cross(NamedTuple):
    """P_uv = A ⊗ B as a map from v's matrices to u's: X ↦ B X Aᵀ; A (n_in, n_in'), B (n_out, n_out')."""

    A: Tensor
    B: Tensor


def cross_of(left: Sequence[Evidence], right: Sequence[Evidence]) -> Cross | None:
    """A_uv and B_uv of one step; None where calls cannot be paired (grouped, or more than one in a sweep)."""
    pairs = paired(left, right)
    if not pairs:
        return None
    rows = [common(u, v) for u, v in pairs]
    A = torch.stack([(u.Z.T @ v.Z) for u, v in rows]).sum(0) / sum(u.Z.shape[0] for u, _ in rows)
    B = torch.stack([(u.U.flatten(0, 1).T @ v.U.flatten(0, 1)) for u, v in rows]).sum(0)
    return Cross(A, B)


def paired(left: Sequence[Evidence], right: Sequence[Evidence]) -> list[tuple[Evidence, Evidence]]:
    """The calls of each sweep, one of each player; empty where that is not so."""
    by_sweep = {part.sweep: part for part in right}
    sweeps = [part.sweep for part in left]
    once = len(set(sweeps)) == len(sweeps) and len(by_sweep) == len(right) and by_sweep.keys() == set(sweeps)
    if not once or any(part.Z.shape[0] > 1 for part in (*left, *right)):
        return []
    return [(part, by_sweep[part.sweep]) for part in left]


class Rows(NamedTuple):
    """Rows that are paired one by one: Z (N, n_in), U (r, N, n_out) with its weight in it."""

    Z: Tensor
    U: Tensor


def common(u: Evidence, v: Evidence) -> tuple[Rows, Rows]:
    """Rows of the samples that both have kept, position by position or one for each sample."""
    m = min(u.Z.shape[1], v.Z.shape[1])
    flatten = u.Z.shape[2] == v.Z.shape[2]
    return rows_of(u, m, flatten), rows_of(v, m, flatten)


def rows_of(part: Evidence, m: int, flatten: bool) -> Rows:
    Z, U = part.Z[0, :m], part.U[:, 0, :m]
    # The weight counts the samples at hand; with fewer of them each counts for more.
    U = U * (part.weight * part.Z.shape[1] / m) ** 0.5
    if flatten:
        return Rows(Z.flatten(0, 1), U.flatten(1, 2))
    return Rows(Z.mean(1), U.sum(2) / Z.shape[1] ** 0.5)


# Cross blocks are kept in the state of the player on the left: running averages, and those of the moment when both
# players decomposed their factors, turned into the coordinates of these decompositions.


def keys(kind: str, path: str) -> tuple[str, str]:
    """Names under which A and B of the cross block with the player at ``path`` are kept."""
    return f"{kind}_A {path}", f"{kind}_B {path}"


def remember(state: State, path: str, new: Cross, keep: float) -> None:
    """Update the running averages."""
    if not bool(new.A.isfinite().all() & new.B.isfinite().all()):
        return
    for key, value in zip(keys("cross", path), new, strict=True):
        if key in state and state[key].shape != value.shape:  # a bias was frozen or thawed
            del state[key]
        average(state, key, value, keep)


def recall(state: State, path: str, other: State, kind: str = "cross") -> Cross | None:
    """The running averages; None where there are none yet, or none that fit the own factors of both players."""
    found = [state.get(key) for key in keys(kind, path)]
    sizes = [(state[side].shape[1], other[side].shape[1]) for side in "AB"]
    fits = all(x is not None and x.shape == size for x, size in zip(found, sizes, strict=True))
    return Cross(*found) if fits else None  # type: ignore[arg-type]


def has_whole_factors(state: State) -> bool:
    """Whether both factors are kept as one block."""
    return all(side in state and state[side].dim() == 3 and is_whole(state[side]) for side in "AB")


def turn(state: State, path: str, other: State, step: int) -> None:
    """Turn the running averages into the eigenbases that both players have since this step."""
    P = recall(state, path, other)
    if P is None:
        return
    bases = ((state.get(f"U_{side}"), other.get(f"U_{side}")) for side in "AB")
    turned = (rotated(X, U, V) for X, (U, V) in zip(P, bases, strict=True))
    state.update(zip(keys("turned", path), turned, strict=True))
    state[f"turned {path}"] = step


def recall_turned(state: State, path: str, other: State) -> Cross | None:
    """The cross block in the coordinates of both; None where either has been decomposed again without the other."""
    moments = {state.get(f"turned {path}"), state.get("decomposed"), other.get("decomposed")}
    return recall(state, path, other, "turned") if len(moments) == 1 and None not in moments else None


def rotated(X: Tensor, U: Tensor | None, V: Tensor | None) -> Tensor:
    """Uᵀ X V with bases (1, n, b), None for the identity; X itself, of which averages must not write into, copied."""
    return X.clone() if U is None and V is None else to_basis(X[None], V, U)[0]
