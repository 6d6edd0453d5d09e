"""Training for some seconds: what is on the clock, what is measured, and on which samples."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ocnopt_lab.timed import Clock, Fit, Measured, methods, train
from ocnopt_lab.timed.trial import VALIDATION, trial


def busy(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def working(count: int, seconds: float) -> Any:
    for _ in range(count):
        busy(seconds)
        yield


def test_what_is_measured_is_not_on_the_clock() -> None:
    def measure() -> Measured:
        busy(0.02)
        return Measured(1.0, 2.0)

    clock = Clock(0.1)
    marks = train(working(1000, 0.001), clock, measure)
    assert 0.1 <= clock.spent < 0.13 and marks[-1].seconds == clock.spent
    assert 60 < marks[-1].steps <= 100 and len(marks) > 10
    assert [m.seconds for m in marks] == sorted(m.seconds for m in marks)


def test_a_method_may_end_by_itself() -> None:
    marks = train(working(3, 0.001), Clock(10.0), lambda: Measured(1.0, 2.0))
    assert marks[-1].steps == 3 and marks[-1].seconds < 1


def fit(batch: int | None, seed: int = 0) -> Fit:
    torch.manual_seed(0)
    x = torch.rand(10, 2)
    return Fit(nn.Linear(2, 1), (x,), x.sum(1, keepdim=True).sin(), F.mse_loss, batch, seed)


def test_batches_are_epochs_in_the_order_of_the_seed() -> None:
    first, again, other = (list(islice(fit(4, seed).batches(), 6)) for seed in (0, 0, 1))
    assert [len(rows) for rows in first] == [4, 4, 2] * 2  # type: ignore[arg-type]
    assert sorted(torch.cat(first[:3]).tolist()) == list(range(10))  # type: ignore[arg-type]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))  # type: ignore[arg-type]
    assert not torch.equal(first[0], other[0])  # type: ignore[arg-type]
    assert list(islice(fit(None).batches(), 2)) == [None, None]


KINDS = {
    "coupled": methods.coupled,
    "ekfac": methods.ekfac,
    "stochastic": methods.stochastic,
    "adam": methods.adam(1e-2),
    "lbfgs": methods.lbfgs,
    "in turn": methods.then_lbfgs(1e-2, torch.optim.AdamW),
}


@pytest.mark.parametrize("batch", [None, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_every_method_lowers_the_loss(kind: str, batch: int | None) -> None:
    one, clock = fit(batch), Clock(0.3)
    before = one.forward()[0].item()
    marks = train(KINDS[kind](one, clock), clock, lambda: Measured(one.forward()[0].item(), 0.0))
    assert marks[-1].loss < 0.5 * before


def test_a_trial_keeps_samples_that_nobody_trains_on() -> None:
    one, again, other = trial("function-forrester", 0), trial("function-forrester", 0), trial("function-forrester", 1)
    x = one.fit.inputs[0]
    assert len(one.validation.x) == round(VALIDATION * 100) and len(x) + len(one.validation.x) == 100
    assert not set(x.flatten().tolist()) & set(one.validation.x.flatten().tolist())
    assert torch.equal(x, again.fit.inputs[0]) and not torch.equal(x, other.fit.inputs[0])
    assert x.dtype == torch.float64 and trial("autoencoder-digits", 1).fit.targets.dtype == torch.float32


def test_a_trial_measures_all_parts_and_leaves_no_trace() -> None:
    one = trial("function-forrester", 0)
    found = one.measure()
    model, task = one.fit.model, one.task
    output = model(one.test.x)
    assert found.loss == pytest.approx(one.fit.forward()[0].item())
    assert found.validation == pytest.approx(one.fit.loss(model(one.validation.x), one.validation.y).item())
    unit = task.unit  # type: ignore[attr-defined]
    assert found.error == pytest.approx(float(unit * F.mse_loss(output.detach(), one.test.y).sqrt()))
    assert model.training and all(p.grad is None for p in model.parameters())
