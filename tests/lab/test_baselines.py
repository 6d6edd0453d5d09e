"""Optimizers of other packages in the lab: they train, they go on bit for bit, and one that is missing says so."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ocnopt.core.terminal import Gradient
from ocnopt_lab.baselines import BASELINES
from ocnopt_lab.errors import LabError
from ocnopt_lab.optimizers import TABLE, OptimizerConfig, build
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.session import build_trainer
from ocnopt_lab.runs.trainer import Trainer

IMPORTED = {"pytorch-optimizer": "pytorch_optimizer"}
each = pytest.mark.parametrize("name", BASELINES)


def trainer(name: str, npz: Path, batch: int = 30) -> Trainer:
    kind = BASELINES[name]
    pytest.importorskip(IMPORTED.get(kind.package, kind.package), reason="of the extra 'baselines'")
    problem = "wine-fcn" if kind.package == "ocnopt" else "digits-fcn"  # for small layers: they form dense matrices
    return build_trainer(RunConfig(problem, 3, batch, OptimizerConfig(name), data=str(npz)))


def train(run: Trainer) -> Trainer:
    for _ in run.epoch():
        pass
    return run


@each
@pytest.mark.filterwarnings("ignore:.*SINGD.*:UserWarning")
def test_each_trains_at_its_default_rate(name: str, npz: Path) -> None:
    run = trainer(name, npz, batch=90 if name == "lbfgs" else 5)  # its line search is for one function
    before = run.scores()[0]["loss"]
    for _ in range(3):
        train(run)
    assert run.scores()[0]["loss"] < 0.9 * before and run.finished


@each
@pytest.mark.filterwarnings("ignore:.*SINGD.*:UserWarning")
def test_each_goes_on_bit_for_bit(name: str, npz: Path) -> None:
    whole, first, second = (trainer(name, npz) for _ in range(3))
    train(train(whole))
    state = train(first).state_dict()
    second.load_state_dict(state)
    train(second)
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_rates_of_a_sweep_ascend_and_are_enough() -> None:
    for name, kind in TABLE.items():
        assert list(kind.rates) == sorted(set(kind.rates)) and kind.options >= {"lr", *kind.defaults}, name
        assert len(kind.rates) >= (5 if name not in ("ocnopt", "lbfgs") else 3), name


def test_a_missing_package_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(LabError, match=r"soap comes from pytorch-optimizer, which is not installed.*pip install"):
        build(OptimizerConfig("soap"), nn.Linear(2, 2))


def test_an_unknown_optimizer_is_one_sentence() -> None:
    with pytest.raises(LabError, match=r"no optimizer 'adagrad'; choose one of ocnopt, adam"):
        OptimizerConfig("adagrad").options()


def test_beta_is_that_of_the_gradient_factor() -> None:
    assert build(OptimizerConfig(beta=0.25), nn.Linear(2, 2)).terminal == Gradient(0.25)  # type: ignore[attr-defined]
    with pytest.raises(LabError, match="leave out beta"):
        build(OptimizerConfig(beta=0.25, terminal="fisher"), nn.Linear(2, 2))


@pytest.mark.filterwarnings("ignore:Detected call of .lr_scheduler.step:UserWarning")
def test_a_decomposition_that_fails_is_a_step_without_a_loss(npz: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = build_trainer(RunConfig("digits-fcn", 1, 16, OptimizerConfig("sgd"), data=str(npz)))

    def refuse(*_: object) -> None:
        torch.linalg.cholesky(-torch.eye(2))

    monkeypatch.setattr(run, "_update", refuse)
    train(run)
    assert run.counters.nonfinite == run.counters.step == 6
