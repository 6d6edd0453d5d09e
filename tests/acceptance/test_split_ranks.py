"""Two and four processes over many steps: decompositions spread over all of them, and what is sent, by number."""

from __future__ import annotations

import multiprocessing as python_multiprocessing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from acceptance_cases import same, snapshot
from split_worker import METRICS, Half, evenly, paired, work
from torch import multiprocessing

OWN = ("feedback weights held", "feedback weights negative")
"""Counts of a process's own samples."""

Found = list[dict[str, Any]]


def processes(size: int, folder: Path) -> Found:
    """What each has found. They are started once, from a server that has imported torch for all of them."""
    python_multiprocessing.set_forkserver_preload(["split_worker"])
    multiprocessing.start_processes(work, (size, str(folder)), size, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return processes(2, tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return processes(4, tmp_path_factory.mktemp("four"))


def common(diagnostics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in diagnostics.items() if name not in OWN}


def require_same(found: Found, case: str) -> None:
    """Weights, state and counts of all processes, to the bit."""
    first, *others = (ranks[case] for ranks in found)
    for other in others:
        assert same(first["end"], other["end"])
        assert [*map(common, first["told"])] == [*map(common, other["told"])]


@pytest.mark.parametrize("name", METRICS)
def test_a_hundred_steps_leave_two_processes_with_the_same_bits(name: str, two: Found) -> None:
    """Failing, one decomposition in many reaches a process differently than another, and they drift apart."""
    require_same(two, f"split {name}")
    losses = two[0][f"split {name}"]["losses"]
    assert len(losses) == 100 and sum(losses[-10:]) < sum(losses[:10]) / 2


def test_four_processes_have_the_same_bits(four: Found) -> None:
    for case in ("split ekfac", "split kfac"):
        require_same(four, case)
        losses = four[0][case]["losses"]
        assert sum(losses[-3:]) < sum(losses[:3])


@pytest.mark.parametrize("name", ["ekfac", "kfac"])
def test_spread_decompositions_change_no_bit(name: str, two: Found) -> None:
    """Failing, how many processes there are decides how the factors are rounded."""
    spread, alone = two[0][f"split {name}"], two[0][f"alone {name}"]
    assert same(spread["early"], alone["end"])
    assert spread["told"][29]["elements communicated"] > alone["told"][29]["elements communicated"]
    require_same(two, f"alone {name}")


@pytest.mark.parametrize("name", METRICS)
def test_halves_of_a_batch_are_one_batch(name: str, two: Found) -> None:
    """Failing, splitting the decompositions has changed the method: 51 steps in double precision, to 1e-9."""
    run = paired(Half(name, [16], 0, torch.float64)).train(range(51))
    weights, _ = snapshot(run)
    there = two[0][f"halves {name}"][0]
    assert max(float((weights[key] - there[key]).abs().max()) for key in weights) < 1e-9
    assert max(float((weights[key] - p.double()).abs().max()) for key, p in initial().items()) > 1e-2


def initial() -> dict[str, torch.Tensor]:
    return Half("adamw", [16], 0).model.state_dict()


@pytest.mark.parametrize("case", ["failing", "failing alone"])
def test_a_decomposition_that_fails_on_one_process_fails_on_all(case: str, two: Found) -> None:
    """Failing, one process keeps an old basis that the others have left, and every later step differs."""
    first, second = (ranks[case] for ranks in two)
    assert same(first[0], second[0])
    assert common(first[1]) == common(second[1])
    # Three players are due at steps 10 and 25. Spread, the failing process is the owner of some side of each.
    assert first[1]["decomposition failed"] == 6


def test_a_failure_on_one_of_four_is_seen_by_all(four: Found) -> None:
    first, *others = (ranks["failing"] for ranks in four)
    assert first[1]["decomposition failed"] >= 1
    for other in others:
        assert same(first[0], other[0])
        assert common(first[1]) == common(other[1])


def test_state_that_one_process_has_lost_is_begun_anew_on_all(two: Found) -> None:
    """Failing, the others send what it does not wait for."""
    first, second = (ranks["damaged"] for ranks in two)
    assert same(first[0], second[0])
    assert first[1]["state begun anew"] == second[1]["state begun anew"] == 1


@pytest.mark.parametrize("name", ["ekfac", "kfac"])
def test_resume_on_two_processes_equals_uninterrupted(name: str, two: Found) -> None:
    for ranks in two:
        assert same(*ranks[f"resumed {name}"])


@pytest.mark.parametrize("name", METRICS)
def test_layers_that_one_process_skips_and_batches_of_different_sizes(name: str, two: Found) -> None:
    """Failing, processes wait for one another for ever, or go different ways."""
    first, second = two
    assert same(first[f"skipping {name}"], second[f"skipping {name}"])
    assert same(first[f"uneven {name}"], second[f"uneven {name}"])


def test_a_join_that_shadows_processes_is_refused(two: Found) -> None:
    """Failing, the first process without batches leaves the others waiting for its sums."""
    for ranks in two:
        (said,) = ranks["joined"]
        assert said.startswith("Join lets processes run out of batches one by one")


def test_every_bit_arrives(two: Found) -> None:
    """−0, subnormal numbers and infinities."""
    for small, large in (ranks["bits"] for ranks in two):
        assert torch.equal(small.view(torch.int32), torch.tensor([-0.0, 1e-45, float("inf")]).view(torch.int32))
        assert large.dtype == torch.float64 and bool(large.signbit()[0]) and float(large[1]) == 5e-324


# the numbers of docs/scaling.md, for Linear(6, 10), LayerNorm(10), Linear(10, 12, bias=False), Linear(12, 3)

SIDES = [(7, 10), (10, 12), (13, 3)]
SIZES = [7 * 10, 2 * 10, 10 * 12, 13 * 3]
TURNS = 4


def expected(name: str, step: int) -> tuple[int, int]:
    """(collectives, elements) of a step, as the page has them."""
    kronecker = name == "ekfac"
    calls, sent = 3, 2 + 3 * TURNS
    if step <= 50 or step % (20 if kronecker else 16) == 0:
        calls, sent = 5, 10 + 3 * TURNS
        calls += 2 * TURNS - 1
        sent += 2 * sum(SIZES) - SIZES[-1] + kronecker * (len(SIDES) - SIZES[0])
    if kronecker and (step <= 5 or step % (10 if step <= 50 else 20) == 0):
        calls += 1 + len(SIDES)
        sent += 3 + sum(a * a + b * b for a, b in SIDES)
        if step > 1:
            calls += len(SIDES)
            sent += sum(a * b for a, b in SIDES)
    if kronecker and step in (1, 3, 10, 25, 50, 100):
        calls += 2
        sent += 6 * 2 * len(SIDES) + sum(n * n + n for pair in SIDES for n in pair)
        if step > 1:
            calls += 2
            sent += 6 * len(SIDES) + sum(a * b for a, b in SIDES)
    return calls, sent


@pytest.mark.parametrize("name", ["ekfac", "adam"])
def test_what_is_sent_is_what_the_page_says(name: str, two: Found) -> None:
    """Failing, the page on scaling promises another traffic than there is."""
    for ranks in two:
        told = [{"collectives": 0, "elements communicated": 0}, *ranks[f"split {name}"]["told"]]
        seen = [tuple(b[key] - a[key] for key in told[0]) for a, b in pairwise(told)]
        assert seen == [expected(name, step) for step in range(1, 101)]


def test_one_process_sends_nothing() -> None:
    told = Half("ekfac", evenly(1), 0).train(range(3)).optimizer.diagnostics()
    assert "collectives" not in told and "elements communicated" not in told
