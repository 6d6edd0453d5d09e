"""Every fault strikes, and training goes on: finite parameters, finite state, and a count of what happened."""

from __future__ import annotations

import random
import warnings
from collections import Counter

import pytest
import torch
from torch import nn

from ocnopt import OCNOpt
from ocnopt_lab.reliability import harness
from ocnopt_lab.reliability.faults import FAULTS, interrupted
from ocnopt_lab.reliability.networks import FAMILIES
from ocnopt_lab.reliability.soak import soak

COUNTED = {
    "loss NaN": "steps skipped",
    "loss Inf": "steps skipped",
    "gradient NaN": "steps skipped",
    "gradient Inf": "steps skipped",
    "state NaN": "state begun anew",
    "state Inf": "state begun anew",
    "eigh does not converge": "decomposition failed",
    "eigh returns NaN": "decomposition failed",
    "cholesky fails": "decomposition failed",
    "eigh out of memory": "decomposition out of memory",
    "cholesky out of memory": "decomposition out of memory",
}
"""What the optimizer must have counted after a fault."""


@pytest.fixture(autouse=True)
def quiet() -> None:
    warnings.filterwarnings("ignore", "OCNOpt skipped a step")


@pytest.mark.parametrize("name", FAULTS)
def test_a_run_survives(name: str) -> None:
    """Failing, one bad batch, decomposition or interrupt ruins a run, or nobody can tell that anything happened."""
    rng, curvature = random.Random(2), "kfac" if "cholesky" in name else "ekfac"
    loop = harness.looped(FAMILIES["features"], rng, curvature=curvature)
    hooks, struck, start = harness.hooks_of(loop.model), Counter[str](), loop.model.state_dict()
    harness.trained(loop, range(4))
    for number in range(4, 28):
        loop.optimizer.clock["step"] = 9  # decompositions are due after each of these steps
        struck[name] += harness.faulty(loop, name, rng, number)
    assert struck[name] > 0
    if "1e25" not in name:
        assert not harness.put_back(loop, start, 28)
    before = [p.detach().clone() for p in loop.model.parameters()]
    harness.trained(loop, range(29, 33))
    assert harness.verdict(loop, hooks) + harness.standing(loop, before, struck) == []
    if name in COUNTED:
        assert loop.optimizer.diagnostics()[COUNTED[name]] > 0


@pytest.mark.parametrize("seed", [267, 615, 931, *range(1000, 1012)])
def test_random_faults(seed: int) -> None:
    """A sample of what ``make soak`` runs a thousand of."""
    assert harness.random_run(seed).wrong == []


def test_an_interrupt_that_strikes_is_seen() -> None:
    loop = harness.looped(FAMILIES["features"], random.Random(0))
    with pytest.raises(KeyboardInterrupt), interrupted(loop, random.Random(5)):
        harness.trained(loop, range(50))
    assert loop.struck


def test_the_verdict_would_notice() -> None:
    """These tests would be idle if damage went unseen."""
    loop = harness.looped(FAMILIES["features"], random.Random(0))
    hooks = harness.hooks_of(loop.model)
    harness.trained(loop, range(3))
    assert harness.verdict(loop, hooks) == []
    before = [p.detach().clone() for p in loop.model.parameters()]
    assert len(harness.standing(loop, before, Counter())) == len(before)
    with torch.no_grad():
        next(loop.model.parameters()).view(-1)[0] = float("nan")
    next(iter(loop.optimizer.state.values()))["direction"].fill_(float("inf"))
    loop.optimizer.clock["slope"] = float("nan")
    loop.model.register_forward_hook(lambda *_: None)
    assert len(harness.verdict(loop, hooks)) == 4


def test_memory_and_hooks_do_not_grow() -> None:
    """A short soak; the long one is ``make soak``."""
    marks = soak(40, marks=2)
    assert [mark.step for mark in marks] == [20, 40]
    assert marks[0].hooks == marks[1].hooks and marks[0].tensors == marks[1].tensors
    assert marks[1].memory < 1.2 * marks[0].memory


def test_state_that_is_damaged_is_begun_anew() -> None:
    """Failing, one NaN from a bad checkpoint keeps a layer on its fallback for ever, or reaches the weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = OCNOpt(model, search="fixed")
    x, y = torch.randn(8, 4), torch.randint(3, (8,))
    for step in range(40):
        if step == 12:
            optimizer.state[model[0].weight]["A"][0, 0, 0] = float("nan")
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert optimizer.diagnostics()["state begun anew"] == 1
    assert {row.metric for row in optimizer.coverage()} == {"eigen"}
