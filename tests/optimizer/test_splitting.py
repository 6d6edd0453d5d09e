"""How decompositions are shared out: a pure function of their costs, near the least time that any sharing takes."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ocnopt.core.ranks import Ranks
from ocnopt.curvature import EKFAC, KFAC
from ocnopt.curvature.splitting import Job, Splitting, assign, makespan, owners_of, packets
from ocnopt.linalg.blocks import recut
from ocnopt.linalg.symmetric import Tally

costs = st.lists(st.floats(0.0, 1e3), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(costs, st.integers(1, 3))
def test_the_last_rank_is_done_within_grahams_bound(costs: list[float], size: int) -> None:
    """Failing, ranks wait for one that was given too much."""
    owners = assign(costs, size)
    least = min(makespan(costs, every) for every in product(range(size), repeat=len(costs)))
    assert all(0 <= owner < size for owner in owners)
    assert makespan(costs, owners) <= (4 / 3 - 1 / (3 * size)) * least + 1e-9


def test_the_longest_goes_alone_where_it_outweighs_the_rest() -> None:
    assert assign([1.0, 10.0, 2.0, 3.0], 2) == [1, 0, 1, 1]
    assert assign([3.0, 3.0, 2.0, 2.0, 2.0], 2) == [0, 1, 0, 1, 0]
    assert makespan([3.0, 3.0, 2.0, 2.0, 2.0], [0, 1, 0, 1, 0]) == 7.0
    assert assign([1.0], 8) == [0]


def sides(curvature: KFAC, n: int) -> list[Job]:
    splitting = Splitting(curvature, Ranks(2))
    state = {"A": torch.eye(n)[None], "B": torch.eye(n)[None]}
    return [splitting.side(state, name, 0.1) for name in "AB"]


@pytest.mark.parametrize("size, first", [(2, 67), (8, 39)])
def test_small_decompositions_stay_where_they_are(size: int, first: int) -> None:
    """Two sides or more of n² + n results each: worth sending from the size on that the constant's comment names."""

    def spread(curvature: KFAC, n: int) -> bool:
        return owners_of([job for _ in range(size) for job in sides(curvature, n)], size) is not None

    assert spread(EKFAC(), first + 2) and not spread(EKFAC(), first - 2)
    assert spread(KFAC(), 4 * first) and not spread(KFAC(), first + 2)


def test_a_diagonal_costs_nothing_and_is_sent_all_the_same() -> None:
    state = {"A": torch.eye(300)[None], "B": torch.ones(1, 5000)}
    curvature = EKFAC(max_factor=4096, max_blocks=0)
    assert curvature.cost(state, "B") == 0.0 and curvature.cost(state, "A") > 0.0
    assert {name: x.shape for name, x in curvature.blank(state, "B").items()} == {"s_B": (1, 5000)}


@pytest.mark.parametrize("rows", [5, 3, 2])
@pytest.mark.parametrize("curvature", [KFAC(), EKFAC(), EKFAC(whole=3)])
def test_blanks_have_the_shapes_of_what_is_found(curvature: KFAC, rows: int) -> None:
    """Failing, a rank waits for another number of elements than it is sent."""
    state = {"A": recut(torch.eye(5).repeat(2, 1, 1), rows), "B": torch.ones(2, 4)}
    for side in "AB":
        found, blank = curvature.decompose(state, side, 0.1, Tally()), curvature.blank(state, side)
        assert list(found) == list(blank)
        for name, x in found.items():
            assert (x.shape, x.dtype) == (blank[name].shape, blank[name].dtype) and not blank[name].any()
            assert x.is_contiguous() and x.data_ptr() not in (state["A"].data_ptr(), state["B"].data_ptr())


def test_with_several_processes_several_players_fall_together() -> None:
    """Failing, each step has one player's two sides for any number of ranks to share."""
    alone, default, chosen = EKFAC(decompose_every=48), EKFAC(decompose_every=48), EKFAC(decompose_every=48, together=3)
    assert [alone.offset(j, 12, 1) for j in range(12)] == [*range(0, 48, 4)]
    assert [default.offset(j, 12, 2) for j in range(12)] == [0] * 4 + [16] * 4 + [32] * 4
    assert [chosen.offset(j, 12, size) for j in (0, 2, 3, 11) for size in (1, 8)] == [0, 0, 0, 0, 12, 12, 36, 36]
    with pytest.raises(ValueError, match="together=0 must be at least 1"):
        EKFAC(together=0)


def test_packets_hold_all_sides_in_order_and_no_more_than_allowed() -> None:
    filled = [side for n in (3, 5, 2, 9, 1) for side in sides(KFAC(), n)]
    groups = [*packets(filled, 30)]
    assert [side for group in groups for side in group] == filled
    sums = [sum(side.elements for side in group) for group in groups]
    assert all(total <= 30 or len(group) == 1 for total, group in zip(sums, groups, strict=True))
    assert [len(group) for group in groups] == [2, 1, 2, 1, 1, 1, 2]
