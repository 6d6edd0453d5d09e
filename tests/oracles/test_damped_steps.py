"""Every step of search="levenberg-marquardt" and "backtracking" against the damped Gauss-Newton step written out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from damped import Dense, Problem, nielsen
from mutations import Mutation, nothing_kept, require_noticed
from torch import Tensor, nn
from torch.nn import functional as F

from ocnopt import OCNOpt, predicting, trials
from ocnopt.core import joint
from ocnopt.core.acceptance import Backtracking, Damping, LevenbergMarquardt, Line, Outcome
from ocnopt.core.search import bellman_quadratic
from ocnopt.core.stage import Samples
from ocnopt.core.value import Coupled

STRAIGHT = LevenbergMarquardt(acceleration=0.0)
"""Whose steps are the damped system's and nothing else (bent ones are in test_geodesic.py)."""
BOLD = replace(STRAIGHT, start=1e-3)
"""Starts so small that the first tries are refused."""


def problem(seed: int = 0, outputs: int = 1, loss: Any = F.mse_loss, **options: Any) -> Problem:
    """A net 2-8-8-outputs with tanh, 40 points of a smooth function."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs)).double()
    x = torch.rand(40, 2, dtype=torch.float64) * 2 - 1
    y = torch.sin(torch.stack([(j + 1) * x[:, 0] + x[:, 1] for j in range(outputs)], 1))
    return Problem(net, x, y.argmax(1) if loss is F.cross_entropy else y, loss, **options)


def optimizer_of(task: Problem, search: Any = STRAIGHT, **options: Any) -> OCNOpt:
    settings = {"curvature": "sgd", "value": "coupled", "terminal": "gauss-newton", "weight_decay": task.decay}
    return OCNOpt(task.net, search=search, **{**settings, **options})


def stepped(task: Problem, optimizer: OCNOpt) -> tuple[Outcome, Tensor, Tensor]:
    """One step: what became of it, and θ before and behind it."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        output = task.net(task.x)
        loss = task.loss(output, task.y)
        optimizer.backward(loss, output)
        return loss

    before = task.theta().clone()
    optimizer.step(closure)
    assert optimizer.last_step is not None
    return optimizer.last_step, before, task.theta().clone()


def close(actual: Tensor, expected: Tensor, what: str) -> None:
    error, size = float((actual - expected).norm()), float(expected.norm())
    assert error <= 1e-8 * size, f"{what}: error {error:.2e} at size {size:.2e}"


def check(task: Problem, optimizer: OCNOpt, steps: int = 25) -> list[Outcome]:
    """Raise AssertionError unless all steps are the dense ones. The outcomes."""
    outcomes = []
    for t in range(steps):
        outcome, before, after = stepped(task, optimizer)
        expected = task.step(before, outcome.damping, outcome.length)
        close(after - before, expected.step, f"δθ of step {t}")
        compare(outcome, expected, t)
        outcomes.append(outcome)
    return outcomes


def compare(outcome: Outcome, expected: Dense, t: int) -> None:
    assert outcome.accepted, f"step {t}: {outcome}"
    assert outcome.predicted == pytest.approx(expected.predicted, rel=1e-7), f"predicted, step {t}"
    # The difference of two losses: as exact as they are.
    assert outcome.actual == pytest.approx(expected.actual, rel=1e-7, abs=1e-15), f"actual, step {t}"
    assert outcome.ratio == pytest.approx(expected.actual / expected.predicted, rel=1e-6)


def test_every_step_is_the_dense_one() -> None:
    task = problem()
    outcomes = check(task, optimizer_of(task))
    assert outcomes[-1].loss < 1e-4 * outcomes[0].loss


@pytest.mark.parametrize("loss", [F.mse_loss, F.cross_entropy], ids=["mse", "cross-entropy"])
def test_several_outputs(loss: Any) -> None:
    task = problem(outputs=3, loss=loss)
    check(task, optimizer_of(task, terminal="auto"), steps=8)


def test_after_refusals_too() -> None:
    """λ in force is that of the try that was kept."""
    task = problem()
    outcomes = check(task, optimizer_of(task, BOLD), steps=5)
    assert max(outcome.tries for outcome in outcomes) > 1


def test_weight_decay_is_part_of_the_objective() -> None:
    task = problem(decay=0.01)
    check(task, optimizer_of(task), steps=10)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("curved", [1, 10, 400])
def test_the_curvature_may_be_that_of_some_samples(curved: int, outputs: int) -> None:
    """The gradient, the prediction's slope and the loss are those of all; 400 are more than there are."""
    task = problem(outputs=outputs, curved=curved)
    outcomes = check(task, optimizer_of(task, curvature_samples=curved), steps=6)
    assert outcomes[-1].loss < outcomes[0].loss


def test_some_samples_with_weight_decay() -> None:
    task = problem(curved=10, decay=0.01)
    check(task, optimizer_of(task, curvature_samples=10), steps=6)


def test_rates_multiply_the_step_and_enter_the_prediction() -> None:
    task = problem()
    groups = [
        {"params": [p for name, p in task.net.named_parameters() if name.endswith(kind)], "lr": lr}
        for kind, lr in (("weight", 0.7), ("bias", 0.2))
    ]
    rates = [p.new_full((p.numel(),), 0.2 if name.endswith("bias") else 0.7) for name, p in task.net.named_parameters()]
    task.rates = torch.cat(rates)
    check(task, optimizer_of(task, params=groups), steps=5)


@pytest.mark.parametrize("rule", [Backtracking(), Backtracking(damping=1e-4)], ids=str)
def test_backtracking_steps_are_dense_and_monotone(rule: Backtracking) -> None:
    task = problem()
    outcomes = check(task, optimizer_of(task, rule), steps=20)
    losses = [outcome.loss for outcome in outcomes]
    assert losses == sorted(losses, reverse=True)
    assert {outcome.damping for outcome in outcomes} == {rule.damping}
    for outcome in outcomes:
        assert outcome.length == 0.5 ** (outcome.tries - 1)


def test_a_length_is_halved_only_where_the_condition_fails() -> None:
    """Armijo: L(θ + αd) ≤ L(θ) + c α b fails for every longer step that was tried."""
    rule = Backtracking(damping=1e-4)
    task = problem()
    optimizer, shortened = optimizer_of(task, rule), 0
    for _ in range(5):
        outcome, before, _ = stepped(task, optimizer)
        shortened += outcome.length < 1
        g = task.gradient(before)
        for tried in range(outcome.tries):
            alpha = 0.5**tried
            longer = task.step(before, rule.damping, alpha)
            holds = longer.actual >= -rule.armijo * float(g @ longer.step)
            assert holds == (alpha == outcome.length)
    assert shortened


def test_damping_follows_nielsens_rule() -> None:
    task = problem()
    optimizer = optimizer_of(task, BOLD)
    told: list[float | None] = []
    for _ in range(15):
        outcome, *_ = stepped(task, optimizer)
        told += [None] * (outcome.tries - 1) + [outcome.ratio]
        expected = nielsen(BOLD.start, [None if r is None else min(r, 1.0) for r in told])
        assert outcome.damping == pytest.approx(expected[-2])
        assert optimizer.diagnostics()["damping"] == pytest.approx(expected[-1])
    assert None in told


@pytest.mark.parametrize("ratio", [1e-3, 0.2, 0.5, 0.8, 1.0, 3.0])
def test_factors_on_the_damping(ratio: float) -> None:
    rule = LevenbergMarquardt(shrink=0.25, grow=3.0)
    kept = rule.kept(Damping(1.0, 96.0), ratio)
    assert kept.value == pytest.approx(max(0.25, 1 - 2 * (2 * min(ratio, 1.0) - 1) ** 3))
    assert kept.growth == 3.0
    assert rule.refused(Damping(1.0, 3.0)) == Damping(3.0, 6.0)


def test_damping_stays_within_its_limits() -> None:
    rule = LevenbergMarquardt(smallest=0.5, largest=2.0)
    assert rule.kept(Damping(0.6, 2.0), 1.0).value == 0.5
    assert rule.refused(Damping(1.5, 2.0)).value == 2.0
    assert rule.exhausted(Damping(2.0, 2.0)) and not rule.exhausted(Damping(1.9, 2.0))


def test_a_gradient_that_was_clipped_gives_the_step_of_that_gradient() -> None:
    """What is not in the columns of the loss any more is taken as it is: the step is linear in the gradient."""
    task = problem()
    optimizer = optimizer_of(task, replace(STRAIGHT, start=0.1, accept=0.0))
    expected = task.step(task.theta(), 0.1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        output = task.net(task.x)
        loss = task.loss(output, task.y)
        optimizer.backward(loss, output)
        for p in task.net.parameters():
            p.grad *= 0.25
        return loss

    before = task.theta()
    optimizer.step(closure)
    close(task.theta() - before, 0.25 * expected.step, "δθ")


def test_the_recursion_has_no_limits_either() -> None:
    """Where the roll-out is not linear the policy is the recursion's; nothing holds its weights."""
    optimizer = optimizer_of(problem(), rollout="nonlinear", saturation=0.5)
    assert optimizer.solver([]).saturation is None
    assert optimizer_of(problem(), value="per-sample", saturation=0.5).solver([]).saturation == 0.5


def damped_prediction(b: Tensor, R: Tensor, C: Tensor, overlap: Tensor, damping: float) -> Any:
    return bellman_quadratic(b, R, C, overlap, 1e-2)


def without_half(self: Line, alpha: float) -> float:
    return -(self.slope * alpha + self.curvature * alpha**2)


MUTATIONS: dict[str, Mutation] = {
    "λ is counted in the prediction": (
        predicting,
        "bellman_quadratic",
        damped_prediction,
        test_every_step_is_the_dense_one,
    ),
    "½ is lost": (Line, "decrease", without_half, test_every_step_is_the_dense_one),
    "the parameters stay where a refused try left them": (
        *(trials, "tensors_kept_unless", nothing_kept),
        test_after_refusals_too,
    ),
    "the metric of a second try is that of the first": (
        *(trials.Solver, "redamp", lambda self, turns, clock: None),
        test_after_refusals_too,
    ),
    "the gradient's coordinates in the columns are lost": (
        *(joint, "coordinates_of", lambda problem: torch.ones_like(problem.saturation.coordinates)),
        test_every_step_is_the_dense_one,
    ),
    "what weight decay adds to the gradient is lost": (
        *(joint, "remainders", lambda stages, c, G: [tuple(map(torch.zeros_like, x.gradient)) for x in stages]),
        test_weight_decay_is_part_of_the_objective,
    ),
    "the rest of the gradient does not enter the system": (
        *(joint, "response", lambda stages, d: torch.zeros(stages[0].samples.count, stages[0].rank).double()),
        test_weight_decay_is_part_of_the_objective,
    ),
    "rates are left out of the prediction": (
        *(predicting, "at_rates", lambda played, rates: played),
        test_rates_multiply_the_step_and_enter_the_prediction,
    ),
    "weight decay is left out of the objective": (
        *(trials, "objective", lambda loss, turns: loss),
        test_weight_decay_is_part_of_the_objective,
    ),
    "the samples of the curvature stand for themselves alone": (
        *(Coupled, "start", lambda self, C, samples: (C, Samples(samples.rows))),
        lambda: test_the_curvature_may_be_that_of_some_samples(10, 1),
    ),
    "ν does not double": (
        *(LevenbergMarquardt, "refused", lambda self, d: Damping(d.value * 2, 2.0)),
        test_damping_follows_nielsens_rule,
    ),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_notices(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutations: see the table."""
    require_noticed(MUTATIONS[what], monkeypatch)
