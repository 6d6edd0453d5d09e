"""Two processes under DistributedDataParallel, and what is said of sharded models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from acceptance_cases import OPTIMIZERS, Run, every_optimizer, given_labels, same, snapshot
from rank_worker import CASES, GAMES, RANKS, accumulated

REFUSED = {"adam-coupled": "value='coupled'", "ekfac-nonlinear": "rollout='nonlinear'"}


@pytest.fixture(scope="module")
def found(ranks: Path) -> list[dict[str, Any]]:
    """What the two processes have found, by rank."""
    return [torch.load(ranks / f"closer-{rank}.pt") for rank in range(RANKS)]


@every_optimizer
@pytest.mark.parametrize("case", [case.__name__ for case in CASES])
def test_all_ranks_have_the_same_weights(case: str, name: str, found: list[dict[str, Any]]) -> None:
    """Failing, the processes train different networks, of which only the first is saved."""
    first, second = (ranks[case][name] for ranks in found)
    if name in REFUSED:
        assert first.startswith(f"{REFUSED[name]} needs the whole batch in one process")
    else:
        assert isinstance(first, dict | tuple)
    assert same(first, second)


def largest_difference(a: Any, b: Any) -> float:
    return max(float((a[key] - b[key]).abs().max()) for key in a)


@pytest.mark.parametrize("name", [name for name in OPTIMIZERS if name not in REFUSED])
@pytest.mark.parametrize("case", ["whole_batch", "of_the_wrapper", "turned_on_both", "turned_on_one", "accumulated"])
def test_two_processes_are_one_with_all_samples(case: str, name: str, found: list[dict[str, Any]]) -> None:
    """Failing, a run on two devices is another method than on one, and its settings do not carry over."""
    run = given_labels(Run(name))
    if case == accumulated.__name__:
        for step in range(4):
            run.optimizer.zero_grad()
            ((run.loss(step) + run.loss(step + 20)) / 2).backward()
            torch.nn.utils.clip_grad_norm_(run.model.parameters(), 1.0)
            run.optimizer.step()
    else:
        run.train(range(7))
    there = found[0][case][name]
    here, state = snapshot(run)
    assert largest_difference(here, there[0] if case == "whole_batch" else there) < 1e-10
    if case == "whole_batch":
        pairs = zip(state["state"].values(), there[1]["state"].values(), strict=True)
        assert all(a.keys() == b.keys() for a, b in pairs)


@pytest.mark.parametrize("kind", GAMES)
def test_games_are_the_same_on_all_ranks(kind: str, found: list[dict[str, Any]]) -> None:
    """Failing, a bandit chooses by the loss of its own process, and the processes wait for one another for ever."""
    (first, chosen), (second, other) = (ranks["game"][kind] for ranks in found)
    assert any(len(log) > 2 for log in chosen.values())
    assert same(first, second)
    assert chosen == other


def test_a_sharded_model_is_refused_when_the_optimizer_is_built(found: list[dict[str, Any]]) -> None:
    """Failing, FSDP2 users get an error from deep inside of a step, or steps that are quietly wrong."""
    for ranks in found:
        assert ranks["sharded"].startswith("The parameter 0.weight is sharded over processes")
        assert "DistributedDataParallel" in ranks["sharded"]


def test_processes_that_do_not_train_together_are_told(found: list[dict[str, Any]]) -> None:
    """Failing, whoever averages gradients by hand has networks that drift apart without a word."""
    for ranks in found:
        assert any("takes this process to train alone" in message for message in ranks["unwrapped"])
