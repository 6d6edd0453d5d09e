"""Statistics of runs with paired seeds. A run that diverged has the number ∞: it ranks last and is never left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap, wilcoxon

CONFIDENCE = 0.95
_FAR = 1e100  # stands for ∞ in sums and interpolations, which would make ∞ - ∞ of it otherwise


@dataclass(frozen=True)
class Estimate:
    """A median over seeds with its bootstrap interval; of a single seed the interval is the number itself."""

    median: float
    low: float
    high: float

    def text(self, form: Callable[[float], str]) -> str:
        """As in 0.12 (0.10 to 0.15)."""
        return f"{form(self.median)} ({form(self.low)} to {form(self.high)})"


def median_of(values: ArrayLike) -> Estimate:
    """Median of one number per seed (n,) and its percentile bootstrap interval of 95 %. Numbers may be infinite."""
    return resampled(values, np.median)


def resampled(values: ArrayLike, statistic: Callable[..., NDArray | np.floating]) -> Estimate:
    """A statistic over the seeds (n,), taking `axis`, and its percentile bootstrap interval of 95 %."""
    near = _near(values)
    middle = float(statistic(near, axis=-1))
    if len(near) < 2:
        return Estimate(*map(_far, (middle, middle, middle)))
    found = bootstrap((near,), statistic, confidence_level=CONFIDENCE, method="percentile", rng=0).confidence_interval
    low, high = min(float(found.low), middle), max(float(found.high), middle)  # interpolation rounds past equal numbers
    return Estimate(*map(_far, (middle, low, high)))


def over_seeds(seeds: int, statistic: Callable[[NDArray], float]) -> Estimate:
    """A statistic of the indices of the seeds, and its interval where they are drawn with replacement."""
    every = np.arange(seeds)
    if seeds < 2:
        return Estimate(*(statistic(every),) * 3)
    found = bootstrap(
        (every,), statistic, vectorized=False, n_resamples=999, confidence_level=CONFIDENCE, method="percentile", rng=0
    ).confidence_interval
    return Estimate(statistic(every), float(found.low), float(found.high))


@dataclass(frozen=True)
class Comparison:
    """Two methods, seed by seed: the differences first - second, and Wilcoxon's two-sided signed-rank test of them.

    lower: in how many of the `seeds` the first was lower.  p: not corrected for other comparisons.
    """

    difference: Estimate
    lower: int
    seeds: int
    p: float


def compared(first: ArrayLike, second: ArrayLike) -> Comparison:
    """Losses, times or errors of two methods, one per seed (n,) in the same order.

    Two runs that both diverged are equal; against one that did not, a diverged run is infinitely far off.
    """
    differences = _far_all(_near(first) - _near(second))
    moved = differences != 0
    p = float(wilcoxon(_near(differences)).pvalue) if moved.any() else 1.0
    return Comparison(median_of(differences), int((differences < 0).sum()), len(differences), p)


def smallest_p(seeds: int) -> float:
    """The least that the signed-rank test can give: all differences of one sign."""
    return min(1.0, 2.0 ** (1 - seeds))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of these tests for one another."""
    order, corrected, highest = sorted(range(len(p)), key=p.__getitem__), [1.0] * len(p), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[index]))
        corrected[index] = highest
    return corrected


@dataclass(frozen=True)
class Profile:
    """Performance profiles of Dolan and Moré (2002).

    ratios: ascending, from 1.  shares: per method, the share of instances it solved within that many times the cost of
        the cheapest method of the instance; a step function that holds from each ratio to the next.
    """

    ratios: NDArray
    shares: dict[str, NDArray]


def performance_profile(costs: Mapping[str, Sequence[float]]) -> Profile:
    """Of one cost per method and instance, all methods with the instances in one order; ∞ where it was not solved."""
    table = np.array([costs[name] for name in costs], dtype=float)
    best = table.min(axis=0)
    solved = np.isfinite(best)
    ratios = np.full_like(table, math.inf)
    ratios[:, solved] = table[:, solved] / best[solved]
    steps = np.unique(np.append(ratios[np.isfinite(ratios)], 1.0))
    shares = (ratios[:, :, None] <= steps).mean(axis=1)
    return Profile(steps, dict(zip(costs, shares, strict=True)))


def _near(values: ArrayLike) -> NDArray:
    return np.clip(np.asarray(values, dtype=float), -_FAR, _FAR)


def _far(value: float) -> float:
    """What lies between a number and ∞ is ∞: a bound that touches a diverged run says so."""
    return math.copysign(math.inf, value) if abs(value) > math.sqrt(_FAR) else value


def _far_all(values: NDArray) -> NDArray:
    return np.vectorize(_far, otypes=[float])(values)
