"""accelerate, which wraps model, optimizer and scheduler, and decides when they step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from trainer_cases import (
    ACCUMULATE,
    CLIP,
    OPTIMIZERS,
    Batch,
    batches,
    by_hand,
    equal,
    every_optimizer,
    feedback_of,
    mean_loss,
    network,
    schedule,
)

from ocnopt import OCNOpt

accelerate = pytest.importorskip("accelerate", reason="accelerate comes with the extra 'trainers'.")


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Its state is global: the precision of one test would be that of the next."""
    forget()
    yield
    forget()


def forget() -> None:
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


class Run:
    """What ``prepare`` returns, and the loop around it."""

    def __init__(self, name: str, **options: Any) -> None:
        self.accelerator = accelerate.Accelerator(cpu=True, **options)
        self.network = network()
        optimizer = OPTIMIZERS[name](self.network)
        parts = self.network, optimizer, schedule(optimizer)
        self.model, self.optimizer, self.scheduler = self.accelerator.prepare(*parts)

    def train(self, given: Sequence[Batch]) -> nn.Module:
        for x, y in given:
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(F.cross_entropy(self.model(x), y))
                if self.accelerator.sync_gradients:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), CLIP)
                self.optimizer.step()
                self.scheduler.step()
                self.optimizer.zero_grad()
        return self.network


@every_optimizer
def test_trains_like_the_loop_by_hand(name: str) -> None:
    """Failing, accumulation, clipping or the schedule mean something else to the optimizer than in a plain loop."""
    run = Run(name, gradient_accumulation_steps=ACCUMULATE)
    assert equal(run.train(batches()), by_hand(OPTIMIZERS[name], batches()))
    assert name == "adamw" or feedback_of(run.optimizer.optimizer) == 1


@every_optimizer
def test_the_loss_falls_in_bfloat16(name: str) -> None:
    """Failing, the forward that accelerate casts hides the loss from the optimizer, or breaks the capture."""
    run = Run(name, mixed_precision="bf16")
    seen = list[torch.dtype]()
    run.network[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    run.train(batches())
    assert set(seen) == {torch.bfloat16} and mean_loss(run.network) < 0.8 * mean_loss(network())
    if name != "adamw":
        assert feedback_of(run.optimizer.optimizer) == 1
        assert {row.terminal for row in run.optimizer.optimizer.coverage()} == {"true-vs-rest"}


@every_optimizer
def test_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Failing, ``load_state`` brings back another state than ``save_state`` has written."""
    data, options = batches(), {"gradient_accumulation_steps": ACCUMULATE}
    run = Run(name, **options)
    run.train(data[:10])
    run.accelerator.save_state(str(tmp_path))
    whole = run.train(data[10:])
    forget()
    resumed = Run(name, **options)
    resumed.accelerator.load_state(str(tmp_path))
    assert not equal(whole, resumed.network)
    assert equal(whole, resumed.train(data[10:]))


def test_measured_steps_take_a_closure_through_its_wrapper() -> None:
    accelerator, model = accelerate.Accelerator(cpu=True), network()
    model, optimizer = accelerator.prepare(model, OCNOpt(model, search="levenberg-marquardt"))
    ((x, y),) = batches(1)
    losses = []

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        accelerator.backward(loss)
        return loss

    for _ in range(6):
        optimizer.step(closure)
        losses.append(optimizer.optimizer.last_step.loss)
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.5 * losses[0]
