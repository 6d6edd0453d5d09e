"""Studies: from what is typed to runs in processes of their own, and from their folders to results."""

from __future__ import annotations

import pytest
import tyro

from ocnopt_lab.commands import COMMANDS
from ocnopt_lab.commands.train import Train
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.runs.config import RunConfig

CONFIGS = (
    RunConfig("digits-fcn", epochs=2, batch_size=16),
    RunConfig("digits-fcn", 2, 16, OptimizerConfig("adam", lr=1e-7, betas=(0.5, 0.25)), seed=3, schedule="constant"),
    RunConfig("mnist-ode-small", 1, 8, OptimizerConfig(alignment="2", feedback=0.0), threads=1, train_samples=50),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.optimizer.label)
def test_what_is_typed_leads_to_the_same_configuration(config: RunConfig) -> None:
    command = tyro.cli(COMMANDS, args=["train", *config.arguments()])
    assert isinstance(command, Train) and command._config() == config
