"""Condition numbers of metrics and of their Kronecker factors, from what the metrics keep anyway."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..linalg.blocks import blockwise, diagonal
from .decompositions import dampings
from .metrics import DiagonalMetric, EigenMetric, KroneckerMetric


def conditions(metric: Any, state: dict[str, Any]) -> dict[str, float]:
    """λ_max/λ_min of M ("condition") and of its damped factors ("condition A", "condition B"), by name.

    metric, state: of one player. Where no eigenvalues are kept the name ends in "at least": the number comes from the
    diagonal of a Cholesky factor and is a lower bound. Of factors in several groups, the worst counts. Empty for
    metrics of another kind.
    """
    if isinstance(metric, DiagonalMetric):
        return {"condition": spread(torch.cat([x.double().flatten() for x in metric.inverses]))}
    if isinstance(metric, EigenMetric):
        return {"condition": spread((metric.S + metric.damping).flatten()), **of_eigenvalues(metric, state)}
    if isinstance(metric, KroneckerMetric):
        return of_inverses({"A": metric.inverse_A, "B": metric.inverse_B})
    return {}


def of_eigenvalues(metric: EigenMetric, state: dict[str, Any]) -> dict[str, float]:
    """Of A + π√λ and B + √λ/π, with the eigenvalues of the last decomposition and the present λ."""
    added = dampings(state["A"], state["B"], metric.damping)
    return {f"condition {side}": spread(state[f"s_{side}"] + d[..., 0]) for side, d in zip("AB", added, strict=True)}


def of_inverses(inverses: dict[str, Tensor]) -> dict[str, float]:
    """Of both factors, and of their product, which has the products of their eigenvalues, over all groups."""
    suffix = {side: "" if X.dim() == 2 else " at least" for side, X in inverses.items()}
    values = {side: (X if X.dim() == 2 else pivots(X)).double() for side, X in inverses.items()}
    both = values["A"][:, :, None] * values["B"][:, None, :]
    told = {f"condition {side}{suffix[side]}": spread(x) for side, x in values.items()}
    return {f"condition{max(suffix.values())}": spread(both.flatten()), **told}


def pivots(X: Tensor) -> Tensor:
    """Squared diagonal of the Cholesky factor of X (g, n, b): numbers between its extreme eigenvalues, (g, n)."""
    return diagonal(blockwise(lambda P: torch.linalg.cholesky_ex(P)[0], X)).square()


def spread(values: Tensor) -> float:
    """Largest over smallest of values (n,), or of those of the worst group (g, n)."""
    return float((values.amax(-1).double() / values.amin(-1).double()).max())
