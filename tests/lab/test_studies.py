"""Studies: from what is typed to runs in processes of their own, and from their folders to results."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import tyro
from rich.console import Console

from ocnopt_lab.commands import COMMANDS
from ocnopt_lab.commands.train import Train
from ocnopt_lab.errors import LabError
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.runs import session, trainer
from ocnopt_lab.runs.config import RunConfig

CONFIGS = (
    RunConfig("digits-fcn", epochs=2, batch_size=16),
    RunConfig("digits-fcn", 2, 16, OptimizerConfig("adam", lr=1e-7, betas=(0.5, 0.25)), seed=3, schedule="constant"),
    RunConfig("wine-fcn", 9, 4, OptimizerConfig("sgd"), seconds=2.5, eval_samples=7),
    RunConfig("mnist-ode-small", 1, 8, OptimizerConfig(alignment="2", feedback=0.0), threads=1, train_samples=50),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.optimizer.label)
def test_what_is_typed_leads_to_the_same_configuration(config: RunConfig) -> None:
    command = tyro.cli(COMMANDS, args=["train", *config.arguments()])
    assert isinstance(command, Train) and command._config() == config


def test_a_run_ends_with_its_seconds_and_its_rate_is_zero_by_then(tmp_path: Path, monkeypatch) -> None:
    """A clock on which every step takes half a second: 4 steps of an epoch with 6."""
    ticks = itertools.count(0, 0.5)
    monkeypatch.setattr(trainer, "clock_of", lambda _: lambda: next(ticks))
    config = RunConfig("digits-fcn", 100, 16, OptimizerConfig("sgd"), seconds=2.0, train_samples=96, eval_samples=10)
    run = session.start(config, tmp_path / "run")
    summary = run.run(Console(quiet=True))
    assert (summary["step"], summary["seconds"], summary["epoch"]) == (4, 2.0, 4 / 6)
    assert run.trainer.optimizer.param_groups[0]["lr"] == 0.0 and run.trainer.finished
    assert session.resume(tmp_path / "run", Console(quiet=True)).trainer.finished


def test_seconds_must_be_positive() -> None:
    with pytest.raises(LabError, match=r"--seconds is 0; it must be more than 0"):
        RunConfig("digits-fcn", 1, 16, seconds=0.0)
