"""`ocnopt ablate`: pairs that differ in κ alone."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from study_cases import SMALL, check_layout, done, table

from ocnopt_lab.cli import main
from ocnopt_lab.commands.ablate import Ablate
from ocnopt_lab.studies import forest
from ocnopt_lab.studies.ablation import AXES
from ocnopt_lab.studies.statistics import Estimate


def test_an_ablation_of_small_runs() -> None:
    study = Ablate(**SMALL, axes=("kappa",), seeds=2, curvature="kfac")
    assert len(study.plan()) == 2 * 5, "all κ share the twin without feedback"
    found = done(study)
    check_layout(found, study)
    losses = {(run["method"], run["seed"]): run["train_loss"] for run in found["runs"]}
    (row,) = (row for row in table(found, "training loss") if row["value"] == "0.3")
    difference = median(losses["feedback-0.3", seed] - losses["feedback-0", seed] for seed in (0, 1))
    assert float(row["with - without"].split()[0]) == pytest.approx(difference, rel=1e-3) and difference != 0


def test_twins_differ_in_feedback_alone() -> None:
    study = Ablate(problems=("digits-fcn",), search="fixed", lr=1e-2)
    for setting in study.settings():
        assert (
            setting.twin.feedback == 0
            and replace(setting.twin, feedback=setting.optimizer.feedback) == setting.optimizer
        )
        assert setting.optimizer.search == "fixed" and setting.optimizer.lr == 1e-2
    assert {setting.axis for setting in study.settings()} == AXES.keys()


def test_options_that_are_equal_are_run_once() -> None:
    plan = Ablate(problems=("digits-fcn",), axes=("metric", "value", "rollout"), seeds=1).plan()
    configs = [run.config for run in plan]
    assert len(set(configs)) == len(configs) == 2 * (5 + 4 + 2 - 2), "the base is in all three axes"
    assert [run.method for run in plan].count("base") == 1


def test_a_beta_goes_to_the_gradient_factor() -> None:
    (run, *_) = Ablate(problems=("digits-fcn",), axes=("beta",), seeds=1).plan()
    assert run.config.optimizer.beta == 1e-3 and run.config.optimizer.options()["beta"] == 1e-3


def test_a_forest_shows_what_diverged(tmp_path: Path) -> None:
    lines = [("a", Estimate(-1.0, -2.0, -0.5)), ("b", Estimate(math.inf, 0.1, math.inf)), ("c", Estimate(0, 0, 0))]
    forest.draw(tmp_path / "a.png", {"p": lines}, "difference")
    forest.draw(tmp_path / "b.png", {"p": lines[:1]}, "difference")
    assert (tmp_path / "a.png").stat().st_size > (tmp_path / "b.png").stat().st_size > 5000


def test_what_cannot_be_is_one_sentence(capsys) -> None:
    """Before any run starts."""
    assert main(["ablate", "digits-fcn", "--lr", "-1", "--seeds", "1"]) == 2
    error = capsys.readouterr().err
    assert "lr=-1.0 must be finite" in error and error.count("\n") == 1 and not Path("runs").exists()
