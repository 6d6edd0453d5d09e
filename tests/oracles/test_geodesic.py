"""LevenbergMarquardt(acceleration=): every bent step against δ₁ + δ₂ from the whole Jacobian, and h″ by jvp of jvp."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from damped import Problem
from mutations import Mutation, require_noticed
from test_damped_steps import close, optimizer_of, problem, stepped
from torch import Tensor
from torch.nn import functional as F

from ocnopt import accelerating
from ocnopt.core import geodesic
from ocnopt.core.acceptance import LevenbergMarquardt

BENT = LevenbergMarquardt(start=0.1, acceleration=0.75)


def check(task: Problem, steps: int = 8, limit: float = BENT.acceleration, **options: Any) -> list[bool]:
    """Raise AssertionError unless all steps are the dense ones. Which of them were bent."""
    optimizer, bent = optimizer_of(task, LevenbergMarquardt(start=0.1, acceleration=limit), **options), []
    for t in range(steps):
        outcome, before, after = stepped(task, optimizer)
        straight = task.step(before, outcome.damping)
        second = task.rates * task.second(before, outcome.damping, geodesic.STRIDE)
        bend = 2 * float((second / task.rates).norm() / (straight.step / task.rates).norm())
        close(after - before, straight.step + (second if outcome.accelerated else 0.0), f"δθ of step {t}")
        assert outcome.accelerated == (bend <= limit), f"step {t}: {bend}"
        assert outcome.bend == pytest.approx(bend, rel=1e-6), f"bend of step {t}"
        assert outcome.predicted == pytest.approx(straight.predicted, rel=1e-7), f"predicted, step {t}"
        bent.append(outcome.accelerated)
    return bent


def test_every_step_is_the_dense_one() -> None:
    assert all(check(problem()))


def test_only_where_the_second_order_is_small() -> None:
    assert {*check(problem(), limit=0.2)} == {True, False}


@pytest.mark.parametrize("loss", [F.mse_loss, F.cross_entropy], ids=["mse", "cross-entropy"])
def test_several_outputs(loss: Any) -> None:
    assert any(check(problem(outputs=3, loss=loss), steps=5))


def test_weight_decay() -> None:
    assert any(check(problem(decay=0.01), steps=5))


def test_one_column_that_is_the_gradient() -> None:
    """Y = v, with 1/(vᵀH⁺v) in the core."""
    assert any(check(problem(), steps=5, terminal="true-vs-rest"))


def test_the_curvature_of_some_samples() -> None:
    assert any(check(problem(curved=10), steps=5, curvature_samples=10))


def test_a_rate_multiplies_both() -> None:
    assert any(check(problem(rates=0.5), steps=5, lr=0.5))


def test_differences_come_to_the_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their error is as the stride, and small enough at the stride in use."""
    errors = []
    for stride in (0.1, 0.01, 0.001):
        monkeypatch.setattr(geodesic, "STRIDE", stride)
        task = problem()
        outcome, before, after = stepped(task, optimizer_of(task, BENT))
        exact = task.second(before, outcome.damping)
        found = after - before - task.step(before, outcome.damping).step
        errors.append(float((found - exact).norm() / exact.norm()))
    assert errors[0] < 0.1
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.2)


def test_the_outputs_go_straight() -> None:
    """θ + τ δ₁ leaves the straight line of the outputs by O(τ²); with τ² δ₂ most of that is gone, where λ allows it."""
    task = problem()
    outcome, before, _ = stepped(task, optimizer_of(task, LevenbergMarquardt(start=1e-7, acceleration=math.pi)))
    straight = task.step(before, outcome.damping).step
    second = task.second(before, outcome.damping)
    out, along = task.output(before), torch.func.jvp(task.output, (before,), (straight,))[1]
    sizes = []
    for tau in (1e-2, 5e-3):
        bent = task.output(before + tau * straight + tau**2 * second) - out - tau * along
        plain = task.output(before + tau * straight) - out - tau * along
        sizes.append((float(bent.detach().norm()), float(plain.detach().norm())))
    assert sizes[0][1] / sizes[1][1] == pytest.approx(4, rel=0.1)
    assert sizes[0][0] < 0.3 * sizes[0][1]


def half_lost(*args: Any) -> Tensor:
    return 2 * second_derivative(*args)


def straight_part_left(outputs: Any, moved: Any, rows: Any, response: Tensor) -> Tensor:
    return second_derivative(outputs, moved, rows, torch.zeros_like(response))


second_derivative = geodesic.second_derivative
MUTATIONS: dict[str, Mutation] = {
    "½ is lost": (geodesic, "second_derivative", half_lost, test_every_step_is_the_dense_one),
    "J δ₁ is not subtracted": (geodesic, "second_derivative", straight_part_left, test_every_step_is_the_dense_one),
    "the limit is not looked at": (geodesic, "ratio", lambda *steps: 0.0, test_only_where_the_second_order_is_small),
    "rates are left out of the response": (
        *(accelerating, "at_own_rates", lambda played, turns: played),
        lambda: test_a_rate_multiplies_both(),
    ),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_notices(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutations: see the table."""
    require_noticed(MUTATIONS[what], monkeypatch)
