"""What time costs: the penalty on an end time, the barrier before T = t₀, and that nothing else shortens it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ode_nets import FINE, Tanh, batch
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.core.search import Model
from ocnopt.ode import NeuralODE, TerminalTime, times
from ocnopt.ode.times import TimePlayer

C = 0.2


def ended(T: float, **options: Any) -> NeuralODE:
    return NeuralODE(Tanh(), t1=TerminalTime(T, penalty=C, **options).double(), **FINE)


def test_without_a_loss_it_is_half_c_T_squared() -> None:
    torch.testing.assert_close(ended(1.5).penalty(), torch.tensor(0.5 * C * 1.5**2).double())
    assert float(NeuralODE(Tanh()).penalty()) == 0.0


def test_with_a_loss_its_slope_is_that_of_the_barrier() -> None:
    """±c T ∓ L / (t1 − t0) at both ends; the loss itself is not differentiated."""
    ode = NeuralODE(
        Tanh(), TerminalTime(0.3, penalty=C).double(), TerminalTime(1.2, penalty=C, high=2.0).double(), **FINE
    )
    loss = ode(batch()).square().mean()
    ode.penalty(loss).backward()
    barrier = float(loss.detach()) / 0.9
    expected = torch.tensor([[C * 0.3 + barrier], [C * 1.2 - barrier]]).double()
    torch.testing.assert_close(torch.stack([p.grad for p in ode.times()]), expected)  # type: ignore[misc]
    assert all(p.grad is None for p in ode.field.parameters())


@pytest.mark.parametrize(("loss", "expected"), [(0.0, C), (0.05, C + 0.05 / 1.2**2), (7.0, 2 * C), (-3.0, C)])
def test_curvature_is_the_second_derivative_up_to_the_balance(loss: float, expected: float) -> None:
    ode = ended(1.2)
    ode(batch())
    ode.penalty(loss)
    assert TimePlayer(ode.t1, ("time",)).private == pytest.approx(expected)  # type: ignore[arg-type]


def test_no_penalty_has_no_barrier() -> None:
    time = TerminalTime(1.5)
    assert float(time.penalty(2.0).detach()) == 0.0
    assert TimePlayer(time, ("time",)).private == 0.0


def at_rest(start: float, steps: int = 60) -> tuple[float, float]:
    """T after training where the field does nothing so that the loss cannot depend on T, and √(L / c)."""
    ode = ended(start, low=1e-3)
    with torch.no_grad():
        for p in ode.field.outer.parameters():  # type: ignore[union-attr]
            p.zero_()
    for p in ode.field.parameters():
        p.requires_grad_(False)
    optimizer, x = OCNOpt(ode), batch()
    for _ in range(steps):
        optimizer.zero_grad()
        loss = ode(x).square().mean()
        (loss + ode.penalty(loss)).backward()
        optimizer.step()
    return ode.t1.value, (float(loss.detach()) / C) ** 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize("start", [0.01, 0.5, 20.0])
def test_what_has_learned_nothing_comes_to_the_same_time_from_anywhere(start: float) -> None:
    found, expected = at_rest(start)
    assert found == pytest.approx(expected, rel=0.02)


def test_a_penalty_without_its_barrier_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "number", lambda loss: 0.0)
    with pytest.raises(AssertionError):
        test_what_has_learned_nothing_comes_to_the_same_time_from_anywhere(0.5)


def classifier() -> tuple[nn.Sequential, NeuralODE, Tensor, Tensor]:
    torch.manual_seed(0)
    ode = ended(0.8)
    model = nn.Sequential(nn.Linear(2, 3), ode, nn.Linear(3, 2)).double()
    x = batch(16, 2)
    return model, ode, x, (x.norm(dim=1) > 1).long()


def step(model: nn.Module, ode: NeuralODE, optimizer: OCNOpt, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(x), y)
    (loss + ode.penalty(loss)).backward()
    optimizer.step()


def shrunk(shrinkage: float) -> tuple[Tensor, Tensor]:
    """End time and weights of the field after one step."""
    model, ode, x, y = classifier()
    optimizer = OCNOpt(model, search=Model(shrinkage=shrinkage))
    step(model, ode, optimizer, x, y)
    assert {row.metric for row in optimizer.coverage()} == {"eigen"}
    return ode.times()[0].detach(), ode.field.outer.weight.detach()  # type: ignore[union-attr]


def test_shrinkage_is_for_weights() -> None:
    (plain, without), (found, weights) = shrunk(0.0), shrunk(0.25)
    torch.testing.assert_close(found, plain, rtol=0, atol=0)
    assert weights.norm() < without.norm()


def test_an_end_time_that_shrinks_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimePlayer, "shrinks", True)
    with pytest.raises(AssertionError):
        test_shrinkage_is_for_weights()


def test_training_resumes_as_it_would_have_gone_on() -> None:
    model, ode, x, y = classifier()
    optimizer = OCNOpt(model)
    for _ in range(3):
        step(model, ode, optimizer, x, y)
    states = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    other, its, *_ = classifier()
    resumed = OCNOpt(other)
    other.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    for _ in range(3):
        step(model, ode, optimizer, x, y)
        step(other, its, resumed, x, y)
    assert float(ode.times()[0].detach()) not in (0.8, float(states[0]["1.t1.time"]))
    torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_loss_that_makes_no_sense() -> None:
    time = TerminalTime(1.0, penalty=C)
    with pytest.raises(ValueError, match=r"takes the loss as one number, not \(3,\)"):
        time.penalty(torch.ones(3))
    with pytest.raises(RuntimeError, match="call the model before it"):
        time.penalty(1.0)
