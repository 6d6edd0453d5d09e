"""Quadrature over the time of an ODE: ∫ f dt ≈ Σ_j w_j f(t_j), all w_j positive, so that sums of outer products are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch


class Rule(NamedTuple):
    """Nodes and weights on [−1, 1] for a number of nodes, and the fewest that make sense."""

    make: Callable[[int], tuple[list[float], list[float]]]
    fewest: int


def gauss_legendre(n: int) -> tuple[list[float], list[float]]:
    """Exact for polynomials of degree 2n − 1: eigenvalues of the Jacobi matrix (Golub and Welsch, 1969)."""
    k = torch.arange(1, n, dtype=torch.float64)
    off = k / (4 * k.square() - 1).sqrt()
    values, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    return values.tolist(), (2 * vectors[0].square()).tolist()


def trapezoid(n: int) -> tuple[list[float], list[float]]:
    """Evenly spaced from end to end, the ends with half a weight; of second order."""
    h = 2 / (n - 1)
    return [-1 + h * j for j in range(n)], [h / 2 if j in (0, n - 1) else h for j in range(n)]


RULES = {"gauss-legendre": Rule(gauss_legendre, 1), "trapezoid": Rule(trapezoid, 2)}


def quadrature(rule: str, nodes: int, t0: float, t1: float) -> list[tuple[float, float]]:
    """(t_j, w_j) on [t0, t1], the latest first, as a backward solve meets them."""
    points, weights = RULES[rule].make(nodes)
    half, middle = (t1 - t0) / 2, (t0 + t1) / 2
    pairs = [(min(max(middle + half * s, t0), t1), half * w) for s, w in zip(points, weights, strict=True)]
    return sorted(pairs, reverse=True)
