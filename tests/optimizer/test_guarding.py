"""State that is not finite: looked for before a step that has feedback, afterwards where that rests."""

from __future__ import annotations

import pytest
import torch
from optimizer_cases import batch, build, mlp, one_step, same, snapshot, train, weights
from torch import Tensor, nn

from ocnopt import OCNOpt, planning
from ocnopt.core.ranks import Ranks

DAMAGED = {"direction": "direction", "basis": "U_A", "second moments": "S"}

pytestmark = pytest.mark.filterwarnings("ignore")


def resting(
    monkeypatch: pytest.MonkeyPatch, curvature: str = "ekfac", search: str = "model"
) -> tuple[nn.Module, OCNOpt]:
    """A model before a step in which feedback and statistics rest, and the optimizer."""
    monkeypatch.setattr(planning, "EAGER", 5)
    model = mlp()
    optimizer = build(model, curvature, search, feedback_every=1000)
    train(model, optimizer, 5)
    assert optimizer.resting
    return model, optimizer


def moved(model: nn.Module, before: list[Tensor]) -> bool:
    return any(not torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("damaged", DAMAGED)
def test_what_it_spoils_does_not_move_and_the_next_step_begins_it_anew(
    monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    model, optimizer = resting(monkeypatch)
    optimizer.state[model[0].weight][DAMAGED[damaged]].view(-1)[0] = float("nan")
    before = weights(model)
    one_step(model, optimizer, *batch(5))
    assert not moved(model, before) and "state begun anew" not in optimizer.tally
    assert optimizer.diagnostics()["step not finite"] == 1
    one_step(model, optimizer, *batch(6))
    assert optimizer.tally["state begun anew"] == 1 and moved(model, before)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert "suspect" not in optimizer.clock


def test_under_a_fixed_step_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = resting(monkeypatch, "kfac", "fixed")
    optimizer.state[model[3].weight]["momentum_buffer"].fill_(float("inf"))
    before = weights(model)
    one_step(model, optimizer, *batch(5))
    assert not moved(model, before)
    one_step(model, optimizer, *batch(6))
    assert optimizer.tally["state begun anew"] == 1 and moved(model, before)


def test_what_a_step_does_not_read_waits_for_the_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer = resting(monkeypatch)
    optimizer.state[model[0].weight]["A"].fill_(float("nan"))
    before = weights(model)
    one_step(model, optimizer, *batch(5))
    assert moved(model, before) and "state begun anew" not in optimizer.tally
    train(model, optimizer, range(6, 9))
    assert "state begun anew" not in optimizer.tally
    train(model, optimizer, range(9, 10))
    assert optimizer.clock["step"] == 10 and optimizer.tally["state begun anew"] == 1
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_a_step_that_overflows_costs_no_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gradient near the largest number: nobody moves at first, then all whose own step is finite."""
    model, optimizer = resting(monkeypatch, search="fixed")
    optimizer.param_groups[0]["lr"] = 1.0
    before = weights(model)
    for _ in range(2):
        optimizer.zero_grad()
        for p in model.parameters():
            p.grad = torch.full_like(p, 1e307 if p is model[0].weight else 1.0)
        optimizer.step()
        assert moved(model[1:], before[2:]) == ("suspect" not in optimizer.clock)
    assert "state begun anew" not in optimizer.tally and "suspect" not in optimizer.clock
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_all_ranks_stand_still_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is sound here and not on another rank."""
    model, optimizer = resting(monkeypatch)
    before = weights(model)
    monkeypatch.setattr(Ranks, "all", lambda ranks, sound: [False] * len(sound) if optimizer.last_look else sound)
    optimizer.last_look = False  # type: ignore[attr-defined]
    monkeypatch.setattr("ocnopt.guarding.are_finite", lambda tensors: setattr(optimizer, "last_look", True) or True)
    one_step(model, optimizer, *batch(5))
    assert not moved(model, before) and optimizer.clock["suspect"]


def test_a_damaged_state_resumes_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is suspect is saved with the rest."""
    (model, optimizer), (resumed, other) = resting(monkeypatch), resting(monkeypatch)
    optimizer.state[model[0].weight]["direction"].fill_(float("nan"))
    one_step(model, optimizer, *batch(5))
    resumed.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    for m, o in ((model, optimizer), (resumed, other)):
        one_step(m, o, *batch(6))
    assert same(snapshot(model, optimizer), snapshot(resumed, other))
