"""LevenbergMarquardt(acceleration=): what it saves, where it stays away, what it puts back, and what it says."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from mutations import Mutation, nothing_kept, require_noticed
from optimizer_cases import same, snapshot, weights
from test_levenberg_marquardt import closure_of, coupled, data, net, outcome, resumed, run
from torch import Tensor, nn
from torch.nn import functional as F

from ocnopt import OCNOpt, accelerating, evaluating
from ocnopt.core.acceptance import LevenbergMarquardt
from ocnopt.core.trajectory import Outputs, Sweep

STRAIGHT = LevenbergMarquardt(acceleration=0.0)
BENT = LevenbergMarquardt()
NEVER = replace(STRAIGHT, acceleration=1e-12)
"""Looks for it in every try, and refuses all of it."""


def steps_to(loss: float, search: LevenbergMarquardt, seed: int) -> int:
    """Steps until the loss is as low."""
    model = net(seed=seed)
    optimizer = coupled(model, search)
    return next(t for t in range(1, 200) if run(model, optimizer, 1)[0].loss < loss)


def counts(optimizer: OCNOpt) -> dict[str, Any]:
    return {name: n for name, n in optimizer.diagnostics().items() if "acceleration" in name}


# what it saves


def test_it_takes_fewer_steps() -> None:
    """29 against 37 in the mean of these seeds."""
    pairs = [(steps_to(1e-7, BENT, seed), steps_to(1e-7, STRAIGHT, seed)) for seed in range(6)]
    assert sum(bent for bent, _ in pairs) < 0.9 * sum(straight for _, straight in pairs)


def test_it_is_off_where_nobody_asks() -> None:
    """One evaluation for the gradient, the check of the first step, and one for each try."""
    for search, calls in ((STRAIGHT, 3), (BENT, 4)):
        model, called = net(), []
        optimizer = coupled(model, search)
        closure = closure_of(model, optimizer, *data())
        optimizer.step(lambda closure=closure, called=called: (called.append(1), closure())[1])
        assert outcome(optimizer).tries == 1 and len(called) == calls
        assert outcome(optimizer).accelerated == (search is BENT) == bool(counts(optimizer))
        assert math.isnan(outcome(optimizer).bend) == (search is STRAIGHT)


def test_parts_of_a_batch_are_bent_like_the_whole() -> None:
    model, other = net(), net()
    (x, y), (whole, parts) = data(), (coupled(model, BENT), coupled(other, BENT))

    def by_parts() -> Tensor:
        parts.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for xs, ys in zip(x.split([30, 10]), y.split([30, 10]), strict=True):
            output = other(xs)
            loss = F.mse_loss(output, ys) * len(xs) / len(x)
            parts.backward(loss, output)
            total += loss.detach()
        return total

    for _ in range(4):
        whole.step(closure_of(model, whole, x, y))
        parts.step(by_parts)
        assert outcome(parts).accelerated
        assert outcome(parts).bend == pytest.approx(outcome(whole).bend, rel=1e-6)
    for p, q in zip(weights(model), weights(other), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rank", [0, 2])
def test_columns_of_a_scaled_loss_are_those_of_the_plain_one(rank: int) -> None:
    """v goes as the scale, a column of H = Y Yᵀ as its root."""
    h, Y = data()
    plain, scaled = (
        Sweep(outputs=Outputs(h, (scale**0.5 if rank else scale) * Y[None]), rank=rank) for scale in (1.0, 8.0)
    )
    scaled.unscale(8.0)
    assert plain.outputs is not None and scaled.outputs is not None
    torch.testing.assert_close(scaled.outputs, plain.outputs)


# where it stays away


OTHERS = [{"value": "per-sample"}, {"rollout": "nonlinear"}, {"feedback": 0.0}]


@pytest.mark.parametrize("options", OTHERS, ids=str)
def test_only_the_system_of_coupled_steps_has_it(options: dict[str, Any]) -> None:
    ways = []
    for search in (STRAIGHT, BENT):
        model = net()
        optimizer = coupled(model, search, **options)
        run(model, optimizer, 3)
        assert not counts(optimizer)
        ways.append(weights(model))
    assert same(*ways)


@pytest.mark.parametrize("shown", [0, 1])
def test_a_closure_that_shows_no_outputs_is_counted(shown: int) -> None:
    """A plain loss.backward(), in all evaluations or in all but the first."""
    ways = []
    for search in (STRAIGHT, BENT):
        model = net()
        optimizer = coupled(model, search, terminal="gauss-newton" if shown else "auto")
        optimizer.step(shown_at_first(model, optimizer, shown))
        assert outcome(optimizer).accepted and not outcome(optimizer).accelerated
        looked = outcome(optimizer).tries
        assert counts(optimizer) == ({} if search is STRAIGHT else {"accelerations without outputs": looked})
        ways.append(weights(model))
    assert same(*ways)


def shown_at_first(model: nn.Module, optimizer: OCNOpt, shown: int) -> Callable[[], Tensor]:
    """A closure that leaves ``optimizer.backward`` after so many evaluations."""
    (x, y), evaluations = data(), count()
    plain = closure_of(model, optimizer, x, y)

    def closure() -> Tensor:
        if next(evaluations) < shown:
            return plain()
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_outputs_that_are_not_finite_are_refused(wrong: float) -> None:
    """Those a part of the step ahead alone."""
    model, straight, (x, y) = net(), net(), data()
    optimizer = coupled(model, BENT)

    def closure() -> Tensor:
        optimizer.zero_grad()
        output = model(x)
        output = output if optimizer.capture.overheard is None else output * wrong
        loss = F.mse_loss(output, y)
        optimizer.backward(loss, output)
        return loss

    optimizer.step(closure)
    run(straight, coupled(straight, STRAIGHT), 1)
    assert outcome(optimizer).accepted and not outcome(optimizer).accelerated
    assert math.isnan(outcome(optimizer).bend) or math.isinf(outcome(optimizer).bend)
    assert counts(optimizer) == {"accelerations refused": 1}
    assert same(weights(model), weights(straight))


def test_parameters_outside_of_the_feedback_go_straight() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.body = nn.Parameter(torch.ones(1, dtype=torch.float64)), net()

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * self.body(x)

    model, straight = Scaled(), Scaled()
    told = run(model, coupled(model, BENT), 1)[0]
    run(straight, coupled(straight, STRAIGHT), 1)
    assert told.accelerated
    assert torch.equal(model.scale, straight.scale)
    assert not torch.equal(model.body[0].weight, straight.body[0].weight)


def test_single_precision_ends_at_its_precision() -> None:
    model = net(dtype=torch.float32)
    outcomes = run(model, coupled(model, BENT), 60, data(dtype=torch.float32))
    assert min(o.loss for o in outcomes) < 1e-5
    assert sum(o.accelerated for o in outcomes) > 10


# what it puts back


def test_all_refused_is_as_if_it_had_not_been_looked_for() -> None:
    """Parameters, buffers, random numbers, gradients and state, bit for bit."""
    ways = []
    for search in (STRAIGHT, NEVER):
        torch.manual_seed(3)
        model = net(nn.BatchNorm1d(8), nn.Dropout(0.2))
        optimizer = coupled(model, search)
        run(model, optimizer, 5)
        assert not outcome(optimizer).accelerated
        assert bool(counts(optimizer)) == (search is NEVER)
        ways.append((snapshot(model, optimizer), [p.grad for p in model.parameters()], torch.rand(2)))
    assert same(*ways)


def test_a_closure_that_fails_on_the_way_leaves_the_parameters() -> None:
    model = net(nn.BatchNorm1d(8))
    optimizer = coupled(model, BENT)
    plain, home = closure_of(model, optimizer, *data()), weights(model)

    def closure() -> Tensor:
        if optimizer.capture.overheard is not None:
            raise KeyboardInterrupt
        return plain()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert same(weights(model), home)
    assert optimizer.capture.overheard is None
    assert run(model, optimizer, 1)[0].accepted


LEFT: dict[str, Mutation] = {
    "parameters": (
        *(accelerating, "tensors_kept_unless", nothing_kept),
        test_all_refused_is_as_if_it_had_not_been_looked_for,
    ),
    "parameters after an error": (
        *(accelerating, "tensors_kept_unless", nothing_kept),
        test_a_closure_that_fails_on_the_way_leaves_the_parameters,
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_notices_what_is_not_put_back(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutations: these stay as the look ahead has left them."""
    require_noticed(LEFT[what], monkeypatch)


def test_random_numbers_that_are_not_put_back_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closure that is not deterministic, as without acceleration."""
    monkeypatch.setattr(evaluating, "replayed", lambda rng: nothing_kept(()))
    model = net(nn.Dropout(0.2))
    with pytest.raises(ValueError, match="at the same parameters"):
        run(model, coupled(model, BENT), 1)


@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_resume_equals_uninterrupted(how: str) -> None:
    options: dict[str, Any] = {"search": replace(BENT, start=1e-3)}
    model = net()
    optimizer = coupled(model, **options)
    run(model, optimizer, 3)
    other, second = resumed(how, model, optimizer, options)
    told, again = run(model, optimizer, 6), run(other, second, 6)
    assert [str(o) for o in told] == [str(o) for o in again]
    assert any(o.accelerated for o in told)
    assert same(snapshot(model, optimizer), snapshot(other, second))


def test_gradients_of_a_trial_are_zero_and_nobody_sees_them() -> None:
    """A trial is a forward pass; the closure may look at gradients all the same."""
    model, (x, y) = net(), data()
    optimizer, seen = coupled(model, BENT), []

    def closure() -> Tensor:
        optimizer.zero_grad()
        output = model(x)
        loss = F.mse_loss(output, y)
        optimizer.backward(loss, output)
        seen.append([p.grad.clone() for p in model.parameters()])
        return loss

    optimizer.step(closure)
    first, *trials = seen
    assert len(trials) == 3
    assert all(float(g.norm()) == 0.0 for gradients in trials for g in gradients)
    assert same([p.grad for p in model.parameters()], first) and all(float(g.norm()) > 0.0 for g in first)


# what it says


def test_the_outcome_tells_of_it() -> None:
    model = net()
    optimizer = coupled(model, BENT)
    told = run(model, optimizer, 8)
    taken, refused = sum(o.accelerated for o in told), sum(o.tries for o in told) - sum(o.accelerated for o in told)
    assert counts(optimizer) == {"accelerations taken": taken} | ({"accelerations refused": refused} if refused else {})
    assert f"accelerated (bend {told[0].bend:.3g})" in str(told[0])
    assert "accelerated" not in str(replace(told[0], accelerated=False))


@pytest.mark.parametrize("acceleration", [-0.1, math.inf, math.nan])
def test_a_limit_that_makes_no_sense(acceleration: float) -> None:
    with pytest.raises(ValueError, match=rf"acceleration={acceleration}\) must not be negative"):
        LevenbergMarquardt(acceleration=acceleration)
