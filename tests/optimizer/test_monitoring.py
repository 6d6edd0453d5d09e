"""Diagnostics in TensorBoard: written in the steps that were asked for, read back from the file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from optimizer_cases import batch, mlp, one_step, train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from ocnopt import OCNOpt
from ocnopt.monitoring import log_diagnostics
from ocnopt.observing import BLIND


class Written:
    """What a writer was given: (tag, number, step)."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.rows.append((tag, scalar_value, global_step))

    def steps(self, tag: str) -> list[int]:
        return [step for name, _, step in self.rows if name == tag]


def test_the_event_file_holds_the_numbers(tmp_path: Path) -> None:
    model = mlp()
    optimizer = OCNOpt(model)
    expected = {}
    with SummaryWriter(str(tmp_path)) as writer:
        handle = log_diagnostics(optimizer, writer, every=2)
        for number in range(5):
            train(model, optimizer, range(number, number + 1))
            expected[number + 1] = optimizer.diagnostics()
        handle.remove()
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = events.Tags()["scalars"]
    assert {f"ocnopt/{name}" for name in expected[5]} == set(tags)
    for tag in tags:
        for event in events.Scalars(tag):
            found = expected[event.step][tag.removeprefix("ocnopt/")]
            assert event.value == pytest.approx(found, rel=1e-6)
    assert [event.step for event in events.Scalars("ocnopt/0/feedback gain")] == [1, 3, 5]


def test_the_first_step_and_every_so_many_after_it() -> None:
    model, writer = mlp(), Written()
    optimizer = OCNOpt(model)
    handle = log_diagnostics(optimizer, writer, every=3, prefix="run/")
    train(model, optimizer, 8)
    assert writer.steps("run/0/update") == [1, 4, 7]
    handle.remove()
    handle.remove()
    train(model, optimizer, range(8, 12))
    assert writer.steps("run/0/update") == [1, 4, 7]
    assert optimizer.watch is BLIND and optimizer.diagnostics()["observed step"] == 7


def test_what_was_seen_before_is_not_written() -> None:
    model, writer = mlp(), Written()
    optimizer = OCNOpt(model)
    optimizer.observe()
    train(model, optimizer, 2)
    log_diagnostics(optimizer, writer, every=100)
    train(model, optimizer, range(2, 5))
    assert writer.rows == []
    optimizer.observe()
    train(model, optimizer, range(5, 6))
    assert writer.steps("ocnopt/step") == [6]


@pytest.mark.filterwarnings("ignore:OCNOpt skipped")
def test_a_skipped_step_is_written_when_it_is_taken() -> None:
    model, writer = mlp(), Written()
    optimizer = OCNOpt(model)
    log_diagnostics(optimizer, writer, every=4)
    x, y = batch(0)
    one_step(model, optimizer, x * torch.nan, y)
    assert writer.rows == []
    one_step(model, optimizer, x, y)
    assert writer.steps("ocnopt/steps skipped") == [1]


def test_with_a_scheduler_and_a_closure() -> None:
    model, writer = mlp(), Written()
    optimizer = OCNOpt(model, curvature="sgd", value="coupled", search="levenberg-marquardt")
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer, 0.5)
    log_diagnostics(optimizer, writer, every=1)
    x, y = batch(0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
        schedule.step()
    assert writer.steps("ocnopt/actual") == [1, 2, 3]


def test_a_period_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="every=0 must be a whole number of steps"):
        log_diagnostics(OCNOpt(mlp()), Written(), every=0)
