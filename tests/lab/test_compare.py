"""`ocnopt compare`: the choice of a rate, times to a target, and what divergence does to them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median

import pytest
from study_cases import SMALL, check_layout, done, table

from ocnopt_lab.cli import main
from ocnopt_lab.commands.compare import Compare
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.studies.arms import arms_of, best_rates
from ocnopt_lab.studies.comparison import OnProblem
from ocnopt_lab.studies.methods import METHODS, get
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.summaries import Result
from ocnopt_lab.studies.targets import Reached, reached

INF = math.inf
ENVIRONMENT = {"cpu": "x", "cores": 2, "threads": 1, "system": "Linux-6", "python": "3", "torch": "2", "ocnopt": "0"}


def runs(method: str, rate: float, *losses: float) -> list[Result]:
    return [
        Result("p", method, seed, loss, 0.5, 1.0, 0.01, math.isinf(loss), ENVIRONMENT, rate=rate)
        for seed, loss in enumerate(losses)
    ]


def run_with(path: Path, *rows: tuple[str, int, float, float | None]) -> Run:
    names = {"steps": "loss", "epoch": "train_loss"}
    lines = [{"kind": kind, "step": step, "seconds": s, names[kind]: loss} for kind, step, s, loss in rows]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Run("m", RunConfig("p", 1, 8), path)


def test_a_comparison_of_small_runs() -> None:
    study = Compare(**SMALL, optimizers="ocnopt,adamw,sgd", sweep="none", seeds=2, target=2.0)
    found = done(study)
    check_layout(found, study)
    times = {(run["method"], run["seed"]): run["to_target"]["best baseline"] for run in found["runs"]}
    final = {(run["method"], run["seed"]): run["train_loss"] for run in found["runs"]}
    best = min(("adamw", "sgd"), key=lambda name: median(final[name, seed] for seed in (0, 1)))
    assert all(times[best, seed]["seconds"] is not None for seed in (0, 1)), "it reaches what it ends with"
    rows = {row["method"]: row for row in table(found, "to the final training loss")}
    assert rows[best]["reached"] == "2 of 2" and rows[best]["x best baseline"] == "1"
    pairs = table(found, "training loss, seed by seed")
    assert [(row["first"], row["second"]) for row in pairs] == [
        ("ocnopt at 0.25", "adamw at 0.001"),
        ("ocnopt at 0.25", "sgd at 0.05"),
    ]
    difference = median(final["ocnopt", seed] - final["sgd", seed] for seed in (0, 1))
    assert float(pairs[1]["first - second"].split()[0]) == pytest.approx(difference, rel=1e-3)
    assert {picture["file"] for picture in found["pictures"]} == {"curves.png", "profile.png"}


def test_a_target_is_reached_by_groups_of_steps_and_by_epochs(tmp_path: Path) -> None:
    run = run_with(
        tmp_path, ("epoch", 0, 0.0, 2.0), ("steps", 10, 1.0, None), ("steps", 20, 2.0, 0.6), ("epoch", 30, 3.0, 0.5)
    )
    assert reached(run, 0.6) == Reached(20, 2.0) and reached(run, 0.5) == Reached(30, 3.0)
    assert reached(run, 0.4) == Reached(INF, INF)


def test_the_best_rate_has_the_lowest_median_and_divergence_is_no_low_loss() -> None:
    arms = arms_of([*runs("sgd", 0.1, 0.3, 0.3, 0.3), *runs("sgd", 1.0, 0.1, INF, INF)], "p")
    assert best_rates(arms)["sgd"].rate == 0.1 and arms[1].diverged == 2
    assert arms[0].against(arms[1]).lower == 2


def test_the_goal_is_the_loss_of_the_best_baseline_seed_by_seed() -> None:
    rivals = [*runs("sgd", 0.05, 0.2, INF, 0.4), *runs("sgd", 0.5, INF, INF, INF)]
    results = [*runs("ocnopt", 0.25, 0.1, 0.1, 0.1), *rivals]
    part = OnProblem("p", results, [get("ocnopt"), get("sgd")], target=None)
    assert part.goals[0].losses == {0: 0.2, 1: 0.4, 2: 0.4} and "sgd at 0.05" in part.goals[0].words
    lost = OnProblem("p", [*results[:3], *results[6:]], [get("ocnopt"), get("sgd")], target=0.3)
    assert [goal.key for goal in lost.goals] == ["0.3"]


def test_a_best_rate_at_the_edge_is_told() -> None:
    results = [*runs("sgd", 0.05, 0.2), *runs("sgd", 0.15, 0.1), *runs("sgd", 0.5, 0.3)]
    assert "edge" not in OnProblem("p", results, [get("sgd")], None).edges()
    assert "edge of its grid: sgd" in OnProblem("p", results[:2], [get("sgd")], None).edges()


def test_a_study_that_was_interrupted_tells_what_there_is() -> None:
    """No run at a default rate, and no seed in common."""
    results = [*runs("ocnopt", 0.2, 0.2, 0.1)[1:], *runs("sgd", 0.15, 0.1)]
    part = OnProblem("p", results, [get("ocnopt"), get("sgd")], None)
    part.goals = []
    assert [table.title for table in part.tables()] == ["p: each method at its best rate"]


def test_every_method_has_its_default_among_its_rates() -> None:
    assert all(method.default_rate in method.rates for method in METHODS.values())
    assert METHODS["ocnopt"].ours and METHODS["ocnopt-sgd"].ours and not METHODS["kfac-off"].ours


def test_all_rates_of_a_method_are_planned_and_paired() -> None:
    plan = Compare(problems=("digits-fcn",), optimizers="adamw,ekfac-off", seeds=2).plan()
    assert len(plan) == len({run.path for run in plan}) == 2 * (5 + 5)
    assert [run.seed for run in plan] == [0] * 10 + [1] * 10
    assert plan[5].config.optimizer.feedback == 0.0 and plan[5].rate == plan[5].config.optimizer.lr == 0.06


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["digits-fcn", "--optimizers", "adagrad"], "no method 'adagrad' to study; choose from ocnopt, adam"),
        (["digits-fcn", "--seeds", "0"], "--seeds is 0; it must be at least 1."),
        (["digits-fcn", "--jobs", "-1"], "--jobs is -1; it must be 0, for this process alone, or more."),
        (["no-such"], "no problem 'no-such'"),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments: list[str], sentence: str, capsys) -> None:
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
