"""Statistics of studies: against numbers worked out by hand, and what becomes of runs that diverged."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ocnopt_lab.studies.statistics import compared, holm, median_of, performance_profile, smallest_p

INF = math.inf
losses = st.lists(st.one_of(st.floats(1e-6, 1e6), st.just(INF)), min_size=2, max_size=7)


def test_an_interval_covers_its_median_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        found = median_of(rng.normal(size=25))
        covered += found.low <= 0 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


@given(losses)
@example([920497.3654870071, 920497.3654870071])
@settings(deadline=None)
def test_an_interval_holds_its_median_and_nothing_is_undefined(values: list[float]) -> None:
    found = median_of(values)
    assert found.low <= found.median <= found.high
    assert min(values) <= found.low * (1 + 1e-9) and found.high * (1 - 1e-9) <= max(values)


def test_a_diverged_run_is_seen_in_the_interval() -> None:
    assert median_of([0.1, 0.2, INF]).high == INF and median_of([0.1, 0.2, INF]).median == 0.2
    assert median_of([0.1, INF, INF]).median == INF and median_of([0.9, -INF, -INF]).low == -INF
    assert median_of([0.3]) == median_of([0.3, 0.3, 0.3])


def test_wilcoxon_is_that_of_all_signs() -> None:
    """Exact p: the share of sign patterns with a sum of ranks at least as far from its mean."""
    first, second = [1.0, 2.0, 3.5, 4.0, 9.0, 2.0], [2.0, 4.0, 3.0, 7.0, 5.0, 7.0]
    d = np.subtract(first, second)
    ranks = np.argsort(np.argsort(abs(d))) + 1
    sums = [sum(r for r, s in zip(ranks, signs, strict=True) if s) for signs in product((0, 1), repeat=6)]
    mean, seen = ranks.sum() / 2, ranks[d > 0].sum()
    exact = np.mean([abs(x - mean) >= abs(seen - mean) for x in sums])
    found = compared(first, second)
    assert found.p == pytest.approx(exact) and (found.lower, found.seeds) == (4, 6)


def test_divergence_is_the_worst_and_a_tie_with_itself() -> None:
    finite, lost = [1.0, 2.0, 3.0, 4.0, 5.0, 6.5], [INF] * 6
    assert compared(finite, lost).difference.median == -INF and compared(finite, lost).lower == 6
    assert compared(finite, lost).p == pytest.approx(smallest_p(6)) == 0.03125
    assert compared(lost, lost).p == 1.0 and compared(lost, lost).difference.median == 0
    assert compared(finite, [*finite[:5], INF]).lower == 1


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(deadline=None)
def test_holm_lies_between_no_correction_and_bonferroni(p: list[float]) -> None:
    corrected = holm(p)
    assert all(a <= c <= min(1.0, len(p) * a) + 1e-12 for a, c in zip(p, corrected, strict=True))
    assert [corrected[i] for i in np.argsort(p)] == sorted(corrected)


def test_profiles_by_hand() -> None:
    """The third instance is solved by one method, the fourth by none."""
    found = performance_profile({"a": [1.0, 4.0, INF, INF], "b": [2.0, 2.0, 3.0, INF]})
    assert found.ratios.tolist() == [1.0, 2.0]
    assert found.shares["a"].tolist() == [0.25, 0.5] and found.shares["b"].tolist() == [0.5, 0.75]
