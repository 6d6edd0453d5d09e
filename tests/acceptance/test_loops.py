"""Loops that the checks of every optimizer leave out, and what OCNOpt does in place of what it cannot do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from acceptance_cases import OPTIMIZERS, Make, Run, distance
from torch.optim import lr_scheduler

from ocnopt_lab.acceptance.loops import Checkpointed, compiled


@pytest.mark.parametrize("name", ["adamw", "ekfac", "kfac-fixed"])
def test_schedules_in_sequence(name: str) -> None:
    """Failing, warm-up and decay that are chained lose the rate of one of them."""
    run = Run(name)
    start = run.optimizer.param_groups[0]["lr"]
    warm, cool = lr_scheduler.LinearLR(run.optimizer, 0.1, 1.0, 3), lr_scheduler.CosineAnnealingLR(run.optimizer, 7)
    scheduler, rates = lr_scheduler.SequentialLR(run.optimizer, [warm, cool], [3]), []
    for step in range(9):
        rates.append(run.optimizer.param_groups[0]["lr"])
        run.step(step)
        scheduler.step()
    assert max(rates) == pytest.approx(start) and rates[0] < 0.2 * start and rates[-1] < 0.3 * start
    assert all(bool(p.isfinite().all()) for p in run.model.parameters())


def test_a_pass_that_cannot_be_repeated_is_counted() -> None:
    """Failing, the nonlinear roll-out is linear under reentrant checkpoints without a word."""
    run = Run("adamw")
    run.model = run.call = Checkpointed(run.model, reentrant=True)
    run.optimizer = OPTIMIZERS["ekfac-nonlinear"](run.model)
    run.train(range(3))
    assert run.optimizer.diagnostics()["nonlinear roll-out missed a call"] == 3


def built_of_the_compiled_module(run: Run, make: Make) -> None:
    run.call = compiled(run.model)
    run.optimizer = make(run.call)


def built_after_a_part_was_called(run: Run, make: Make) -> None:
    run.model[3].compile(backend="aot_eager")
    run.loss(0).backward()
    run.optimizer = make(run.model)


@pytest.mark.parametrize("name", ["adamw", "ekfac"])
@pytest.mark.parametrize("build", [built_of_the_compiled_module, built_after_a_part_was_called])
def test_torch_compile(name: str, build: Callable[[Run, Make], None]) -> None:
    """Failing, a compiled model stops with a compiler error, or loses the method and trains by gradients alone."""
    torch.compiler.reset()
    run, plain = Run("adamw"), Run(name)
    build(run, OPTIMIZERS[name])
    run.train(range(3))
    plain.train(range(3))
    assert distance(run.model, plain.model) < 1e-12
