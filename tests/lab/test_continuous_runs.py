"""Runs of regression and continuous-time problems from start to end: resumed, drawn, and given up by a solver."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_resume import interrupt_at, rows, state
from torch import nn
from torchdiffeq import odeint

from ocnopt_lab.cli import main
from ocnopt_lab.problems import PROBLEMS
from ocnopt_lab.runs import trajectories
from ocnopt_lab.runs.solving import solving

FEW = ("--train-samples", "48", "--eval-samples", "32", "--batch-size", "16", "--epochs", "2", "--quiet")


@pytest.mark.parametrize("optimizer", ["adam", "ocnopt"])
@pytest.mark.parametrize("problem", ["function-park-noisy", "spiral"])
def test_resume_equals_uninterrupted(problem: str, optimizer: str, monkeypatch) -> None:
    command = ["train", problem, "--optimizer.name", optimizer, *FEW]
    assert main([*command, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        interrupt_at(4, patch)
        assert main([*command, "--out", "parts"]) == 130
    assert main(["train", "--resume", "parts", "--quiet"]) == 0
    whole, parts = state("whole"), state("parts")
    assert parts["counters"]["step"] == 6 and rows("parts") == rows("whole")
    assert all(torch.equal(parts["model"][key], value) for key, value in whole["model"].items())


def test_a_run_on_trajectories_leaves_a_picture_and_counts_evaluations(capsys) -> None:
    epochs = ["--epochs", "4"]
    assert main(["train", "van-der-pol", "--optimizer.name", "adam", *FEW[:-3], *epochs, "--out", "run"]) == 0
    assert "test mean squared error" in capsys.readouterr().out
    with Image.open(Path("run") / trajectories.NAME) as picture:
        picture.verify()
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["test_loss"] > 0 and not any("accuracy" in key or "rmse" in key for key in summary)
    steps = [row for row in rows("run") if row["kind"] == "steps"]
    assert steps and all(row["nfe_forward"] > 5 and row["nfe_backward"] > 5 for row in steps)


def test_the_picture_is_of_the_true_field() -> None:
    """With the true field in place of the network, the fit lies on the truth."""
    problem = PROBLEMS["lotka-volterra"]
    (picture,) = problem.pictures
    model = problem.model((2,), 2)
    model.field.net = Truth()
    drawn: dict[str, np.ndarray] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trajectories, "draw", lambda *given: drawn.update(truth=given[3], fitted=given[4]))
        picture.draw(Path(), "title", model)
    assert np.abs(drawn["truth"] - drawn["fitted"]).max() < 0.02


class Truth(nn.Module):
    """Lotka-Volterra, written for batches."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = x[:, 0], x[:, 1]
        return torch.stack([2 / 3 * a - 4 / 3 * a * b, a * b - b], dim=1)


def test_a_rollout_is_the_solution_on_its_grid() -> None:
    torch.manual_seed(0)
    model = PROBLEMS["spiral"].model((2,), 2)
    x = torch.randn(3, 2)
    expected = odeint(model.field, x, model.times, method="rk4", options={"step_size": 0.005})
    torch.testing.assert_close(model(x), expected.transpose(0, 1), atol=1e-3, rtol=1e-3)


def test_a_solver_that_gives_up_ends_as_a_run_that_diverged(capsys) -> None:
    command = ["train", "spiral", "--optimizer.name", "sgd", "--optimizer.lr", "1e30", *FEW[:-3]]
    assert main([*command, "--epochs", "30", "--quiet", "--out", "run"]) == 1
    assert "the run has diverged" in capsys.readouterr().err
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["status"] == "diverged" and summary["test_loss"] is None
    assert summary["nonfinite_steps"] >= 50


def test_only_a_solver_may_give_up() -> None:
    def wrong() -> float:
        raise AssertionError("something else")

    with pytest.raises(AssertionError, match="something else"):
        solving(wrong, math.nan)


def test_older_checkpoints_of_classifiers_go_on(npz: Path) -> None:
    """Before there were tasks, the counter of right answers had another name, and configurations no split."""
    command = ["train", "digits-fcn", "--data", str(npz), "--optimizer.name", "adam", "--quiet"]
    assert main([*command, "--epochs", "1", "--out", "run"]) == 0
    found = state("run")
    found["counters"]["correct"] = int(found["counters"].pop("counted"))
    torch.save(found, "run/checkpoint.pt")
    config = json.loads(Path("run/config.json").read_text())
    del config["split"]
    Path("run/config.json").write_text(json.dumps({**config, "epochs": 2}))
    assert main(["train", "--resume", "run", "--quiet"]) == 0
    assert json.loads(Path("run/summary.json").read_text())["epoch"] == 2
