"""With feedback off and a fixed step, OCNOpt is torch's SGD, RMSprop and AdamW, weight for weight, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from optimizer_cases import CURVATURES, SEARCHES, batch, build, mlp, train, twins
from torch import nn
from torch.nn import functional as F

from ocnopt import OCNOpt, planning
from ocnopt.curvature import diagonal
from ocnopt_lab.acceptance.run import distance

STEPS = 20
CLOSE = 1e-12

Options = dict[str, Any]
REFERENCES: dict[str, tuple[str, type[torch.optim.Optimizer], Options]] = {
    "sgd": ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.0}),
    "sgd-momentum": ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "sgd-decay": ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    "rmsprop": ("rmsprop", torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.0}),
    "rmsprop-momentum": ("rmsprop", torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.9}),
    "rmsprop-decay": ("rmsprop", torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1}),
    "adamw": ("adam", torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.0}),
    "adamw-decay": ("adam", torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw-betas": ("adam", torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1, "betas": (0.7, 0.95)}),
}
"""Curvature, torch's class, and the options that both take."""

every_reference = pytest.mark.parametrize("name", REFERENCES)

Pair = tuple[tuple[nn.Module, torch.optim.Optimizer], tuple[nn.Module, torch.optim.Optimizer]]


def pair(name: str, grouped: bool = False) -> Pair:
    """Our optimizer and torch's on equal networks; grouped: biases at another rate and another decay."""
    curvature, kind, options = REFERENCES[name]
    mine, theirs = twins(mlp)
    params = (biases_apart(mine, options), biases_apart(theirs, options)) if grouped else (None, theirs.parameters())
    ours = OCNOpt(mine, curvature=curvature, search="fixed", feedback=0.0, params=params[0], **options)
    return (mine, ours), (theirs, kind(params[1], **options))


def biases_apart(model: nn.Module, options: Options) -> list[Options]:
    named = dict(model.named_parameters())
    biases = [p for name, p in named.items() if name.endswith("bias")]
    rest = [p for name, p in named.items() if not name.endswith("bias")]
    return [{"params": rest}, {"params": biases, "lr": 3 * options["lr"], "weight_decay": 0.03}]


def gradients(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    x, y = batch(step)
    F.cross_entropy(model(x), y).backward()


def follow(both: Pair, before_step: Callable[[nn.Module, int], None] | None = None, schedule: Any = None) -> None:
    """STEPS steps of both, compared after each one."""
    schedulers = [schedule(optimizer) for _, optimizer in both] if schedule else []
    for step in range(STEPS):
        for model, optimizer in both:
            gradients(model, optimizer, step)
            if before_step:
                before_step(model, step)
            optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        assert distance(both[0][0], both[1][0]) <= CLOSE, f"step {step}"


@every_reference
@pytest.mark.parametrize("grouped", [False, True], ids=["one-group", "biases-apart"])
def test_follows_torch(name: str, grouped: bool) -> None:
    both = pair(name, grouped)
    start = mlp()
    follow(both)
    assert distance(both[0][0], start) > 1e-2


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "step": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5),
    "one-cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.03, STEPS + 1),
    "linear-to-zero": lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, STEPS - 5),
    "lambda": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
}


@every_reference
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_follows_torch_under_a_schedule(name: str, schedule: str) -> None:
    """OneCycle also cycles momentum or β₁, whichever the curvature has."""
    follow(pair(name, grouped=schedule == "step"), schedule=SCHEDULES[schedule])


@every_reference
def test_follows_torch_with_layers_frozen_for_a_while(name: str) -> None:
    def toggle(model: nn.Module, step: int) -> None:
        model[3].requires_grad_(not 5 <= step < 10)
        model[0].bias.requires_grad_(step % 4 != 1)

    follow(pair(name), toggle)


@every_reference
def test_follows_torch_when_gradients_are_missing(name: str) -> None:
    def drop(model: nn.Module, step: int) -> None:
        if step % 3 == 0:
            model[5].weight.grad = None
        if step < 4:
            model[2].weight.grad = model[2].bias.grad = None

    follow(pair(name), drop)


# AdamW in one pass, where nobody asks for its metric in between


def steps_of_adam(dtype: torch.dtype, scale: float = 1.0, **options: Any) -> tuple[nn.Module, OCNOpt]:
    """A network after a few steps with gradients of about this size."""
    model = mlp(dtype)
    optimizer = OCNOpt(model, curvature="adam", search="fixed", **{"feedback": 0.0, **options})
    for step in range(6):
        gradients_like(model, step, scale)
        optimizer.step()
    return model, optimizer


def gradients_like(model: nn.Module, step: int, scale: float) -> None:
    torch.manual_seed(step)
    for p in model.parameters():
        p.grad = scale * torch.randn_like(p)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_one_pass_is_the_three_parts(dtype: torch.dtype, weight_decay: float) -> None:
    with mock.patch.object(torch, "_fused_adamw_", wraps=torch._fused_adamw_) as kernel:
        model, _ = steps_of_adam(dtype, weight_decay=weight_decay)
    assert kernel.call_count == 6
    with mock.patch.object(diagonal, "alike", lambda *_: False), mock.patch.object(torch, "_fused_adamw_") as kernel:
        other, _ = steps_of_adam(dtype, weight_decay=weight_decay)
    assert not kernel.called
    assert distance(model, other) <= 8 * torch.finfo(dtype).eps and distance(model, mlp(dtype)) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("part", [0.1, 3.0])
def test_one_pass_stops_short_of_squares_that_overflow(dtype: torch.dtype, part: float) -> None:
    scale = part * torch.finfo(dtype).max ** 0.5
    with mock.patch.object(torch, "_fused_adamw_", wraps=torch._fused_adamw_) as kernel:
        model, optimizer = steps_of_adam(dtype, scale=0.01 * scale)
        assert kernel.call_count == 6
        gradients_like(model, 7, scale)
        optimizer.step()
        assert kernel.call_count == 6, "the norm of all gradients is too large"
    assert all(bool(state["exp_avg_sq"].isfinite().all()) for state in optimizer.state.values())


def test_one_pass_wants_one_order_of_the_entries() -> None:
    """The kernel goes by address: a gradient in another layout would meet the wrong weights."""
    ours, theirs = (nn.Conv2d(3, 4, 3).double() for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizer = OCNOpt(ours, curvature="adam", search="fixed", feedback=0.0, lr=0.01)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=0.01, weight_decay=0.0)
    for step in range(4):
        for model, mover in ((ours, optimizer), (theirs, adamw)):
            gradients_like(model, step, 1.0)
            if model is ours:
                model.weight.grad = model.weight.grad.contiguous(memory_format=torch.channels_last)
            mover.step()
    assert distance(ours, theirs) <= CLOSE


@pytest.mark.parametrize("feedback_every", [1, 3])
def test_one_pass_where_the_feedback_rests(feedback_every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "EAGER", 0)
    model = mlp()
    optimizer = OCNOpt(model, curvature="adam", search="fixed", feedback_every=feedback_every)
    with mock.patch.object(torch, "_fused_adamw_", wraps=torch._fused_adamw_) as kernel:
        train(model, optimizer, 6)
    assert kernel.call_count == (0 if feedback_every == 1 else 4)
    assert {state["step"] for state in optimizer.state.values()} == {6}


@every_reference
def test_the_comparison_sees_a_small_difference(name: str) -> None:
    """One percent of one layer's gradient at one step must not go unnoticed."""
    both = pair(name)

    def nudge(model: nn.Module, step: int) -> None:
        if model is both[0][0] and step == 7:
            model[0].weight.grad.mul_(1.01)

    with pytest.raises(AssertionError):
        follow(both, nudge)


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("value", ["per-sample", "coupled"])
def test_feedback_vanishes_continuously(curvature: str, search: str, value: str) -> None:
    """κ = 1e-9 is κ = 0 to about 1e-9, κ = 1e-6 a thousand times farther at most, κ = 1 plainly different."""
    runs = {feedback: run_with(curvature, search, value, feedback) for feedback in (0.0, 1e-9, 1e-6, 1.0)}
    off = runs[0.0]
    assert distance(off, runs[1e-9]) <= 1e-8
    assert distance(off, runs[1e-6]) <= 1e-5
    assert distance(off, runs[1.0]) > 1e-6


def run_with(curvature: str, search: str, value: str, feedback: float) -> nn.Module:
    model = mlp()
    train(model, build(model, curvature, search, value=value, feedback=feedback), 4)
    return model
