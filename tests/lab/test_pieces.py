"""Parts of the lab whose numbers can be known beforehand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ocnopt_lab.errors import LabError
from ocnopt_lab.optimizers import OptimizerConfig, build, build_schedule
from ocnopt_lab.problems import PROBLEMS
from ocnopt_lab.profiling.timing import ratio
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.evaluate import evaluate
from ocnopt_lab.runs.memory import StepMemory
from ocnopt_lab.runs.session import build_trainer
from ocnopt_lab.tasks import Classification


@pytest.mark.parametrize("problem", [p for p in PROBLEMS.values() if p.name.endswith("fcn")], ids=lambda p: p.name)
def test_fully_connected_networks_have_five_layers(problem) -> None:
    model = problem.model((1, 8, 8), 10)
    assert sum(isinstance(module, nn.Linear) for module in model) == 5
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "in_shape", "convolutions"), [("mnist-cnn", (1, 28, 28), 3), ("cifar10-cnn", (3, 32, 32), 4)]
)
def test_convolutional_networks(name: str, in_shape: tuple[int, ...], convolutions: int) -> None:
    model = PROBLEMS[name].model(in_shape, 7)
    assert sum(isinstance(module, nn.Conv2d) for module in model) == convolutions
    assert model(torch.zeros(2, *in_shape)).shape == (2, 7)


def test_evaluation_in_chunks_equals_evaluation_at_once() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(4, 3), nn.Dropout()), torch.randn(600, 4), torch.randint(3, (600,))
    score = evaluate(model, Classification(), x, y)
    assert model.training
    model.eval()
    assert score["loss"] == pytest.approx(cross_entropy(model(x), y).item(), rel=1e-6)
    assert score["accuracy"] == pytest.approx((model(x).argmax(1) == y).float().mean().item())


def test_the_linear_schedule_ends_at_zero() -> None:
    optimizer = build(OptimizerConfig("sgd", lr=0.5), nn.Linear(2, 2))
    schedule = build_schedule("linear", optimizer, steps=4)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.5, 0.375, 0.25, 0.125, 0])


def test_the_ratio_is_that_of_medians_and_its_interval_holds_it() -> None:
    rng = np.random.default_rng(0)
    baseline = rng.uniform(1, 2, size=40)  # a machine that is busy now and then
    result = ratio(1.5 * baseline, baseline)
    assert result.value == pytest.approx(1.5)
    # Both slow down together, so the resampled ratios hardly spread.
    assert result.low == pytest.approx(1.5) and result.high == pytest.approx(1.5)


def test_memory_grows_by_what_the_steps_allocate() -> None:
    torch.ones(20_000_000)  # a peak before the steps does not count
    memory = StepMemory()
    memory.resume()
    torch.ones(10_000_000)  # 40 MB
    memory.pause()
    assert 35 < memory.growth < 60


def test_a_run_may_train_on_the_first_samples_only() -> None:
    config = RunConfig("digits-fcn", epochs=1, batch_size=32, train_samples=100)
    trainer = build_trainer(config)
    assert trainer.steps_per_epoch == 4 and len(trainer.data.x_train) == 100
    with pytest.raises(LabError, match="--train-samples is 0"):
        RunConfig("digits-fcn", epochs=1, batch_size=32, train_samples=0)
