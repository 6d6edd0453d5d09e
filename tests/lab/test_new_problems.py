"""Every problem beyond the first classifiers builds, takes steps and scores."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from ocnopt_lab.errors import LabError
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.problems import GROUPS, Problem, get
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.session import build_trainer
from ocnopt_lab.runs.trainer import Trainer

DATA = os.environ.get("OCNOPT_DATA")  # read before the tests are set apart from it
NEW = [problem for group, problems in GROUPS.items() if group != "Classification" for problem in problems]


def trainer_of(problem: Problem, optimizer: str, samples: int = 24) -> Trainer:
    """On few samples; skips where the data or the part of ocnopt that the model needs is absent."""
    if any(name in problem.name for name in ("cifar10", "mnist", "transformer")) and not DATA:
        pytest.skip("OCNOPT_DATA names no folder with these images")
    config = RunConfig(
        problem.name,
        epochs=2,
        batch_size=samples,
        optimizer=OptimizerConfig(optimizer),
        data_dir=DATA,
        eval_samples=samples,
        train_samples=samples,
    )
    try:
        return build_trainer(config)
    except LabError as error:
        if "is not on this machine" in str(error):
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("optimizer", ["ocnopt", "adam"])
@pytest.mark.parametrize("problem", NEW, ids=lambda problem: problem.name)
def test_two_steps_and_a_score(problem: Problem, optimizer: str) -> None:
    trainer = trainer_of(problem, optimizer)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    losses = [result.loss for _ in range(2) for result in trainer.epoch()]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    moved = [bool((a != b).any()) for a, b in zip(before, trainer.model.parameters(), strict=True)]
    assert all(moved)
    for scores in trainer.scores():
        assert problem.task.measure.key in scores and all(map(math.isfinite, scores.values()))


@pytest.mark.parametrize("name", ["spiral", "mnist-ode-small", "articularywordrecognition"])
def test_evaluations_of_the_field_are_reported(name: str) -> None:
    (problem,) = (problem for problem in NEW if problem.name == name)
    trainer = trainer_of(problem, "adam")
    assert next(trainer.epoch()).loss > 0
    counts = trainer.evaluations()
    assert set(counts) == {"nfe_forward", "nfe_backward"} and min(counts.values()) > 4


def test_groups_of_steps_hold_mean_evaluations() -> None:
    (problem,) = (problem for problem in NEW if problem.name == "spiral")
    trainer, counts = trainer_of(problem, "adam"), []
    for _ in range(2):
        for _ in trainer.epoch():
            counts.append(trainer.evaluations()["nfe_backward"])
    assert trainer.counters.take_group()["nfe_backward"] == sum(counts) / len(counts)
    assert trainer.counters.group_evaluations == {}


def test_models_without_a_field_report_no_evaluations(tmp_path: Path) -> None:
    (problem,) = (problem for problem in NEW if problem.name == "function-branin")
    assert trainer_of(problem, "adam").evaluations() == {}


def test_an_autoencoder_begins_with_few_inputs_for_every_unit() -> None:
    """As Martens (2010) has it: 15 of N(0, 1) in every row, and no biases."""
    torch.manual_seed(0)
    network = get("autoencoder-mnist").model((28, 28), 784)
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    assert [layer.in_features for layer in layers] == [784, 1000, 500, 250, 30, 250, 500, 1000]
    for layer in layers:
        assert (layer.weight.count_nonzero(1) == 15).all() and not layer.bias.any()
        assert abs(layer.weight[layer.weight != 0].std() - 1) < 0.1
