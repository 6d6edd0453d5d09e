"""`ocnopt tune`: trials in one journal, paired with Adam, checked where the search has not looked."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ocnopt import OCNOpt
from ocnopt_lab.cli import main
from ocnopt_lab.commands.tune import Tune
from ocnopt_lab.timed.methods import ours
from ocnopt_lab.tuning import space
from ocnopt_lab.tuning.cases import Case, Settings, Turns, outcome, prepared
from ocnopt_lab.tuning.search import CLIP, Candidate, Search, finished, gain
from ocnopt_lab.tuning.told import Group, Told

SMALL = Tune(
    problems=("wine-fcn", "digits-fcn"),
    left_out=("function-forrester",),
    trials=4,
    steps=6,
    check_seeds=1,
    candidates=1,
)
OPTIONS = (
    "--problems wine-fcn digits-fcn --left-out function-forrester --trials 4 --steps 6 --check-seeds 1 --candidates 1"
)
QUIET = Console(quiet=True)


def test_two_processes_search_together_and_one_goes_on(tmp_path: Path) -> None:
    tune = replace(SMALL, jobs=2, out=tmp_path / "t")
    assert tune.run(QUIET) == 0
    told = json.loads((tune.out / "results.json").read_text())
    done = [trial for trial in told["trials"] if trial["state"] == "COMPLETE"]
    assert 4 <= len(done) <= 5 and done[0]["params"] == space.defaults()
    assert len({trial["params"]["lr"] for trial in done}) == len(done), "no process repeats the draws of another"
    files = {path: path.stat().st_mtime_ns for path in (tune.out / "runs").iterdir()}
    assert len(files) == 3 * (2 + 4) + 2 * 4 + len(periods())
    assert told["command"] == f"ocnopt tune {OPTIONS} --jobs 2"
    text = (tune.out / "results.md").read_text()
    assert "| today's defaults |" in text and "Checked on problems left out of the search" in text

    assert replace(tune, jobs=1).run(QUIET) == 0
    assert {path: path.stat().st_mtime_ns for path in (tune.out / "runs").iterdir()} == files
    search = tune.search()
    for trial in finished(search.study()):
        gains = [trial.user_attrs[case.name] for case in search.cases]
        assert trial.value == pytest.approx(mean(gains))
    assert all(search.reference(case) == min(run.loss for run in search.adams(case)) for case in search.cases)


def periods() -> list[int]:
    return [value for values in space.PERIODS.values() for value in values]


def test_a_longer_case_has_runs_of_its_own_and_more_steps(tmp_path: Path) -> None:
    taken = []

    def method(fit, clock):
        while True:
            taken.append(clock.share)
            yield

    outcome(Case("wine-fcn", 0, 3), method, Settings(steps=4))
    assert len(taken) == 12 and taken == sorted(taken) and taken[6] == 0.5
    assert Case("wine-fcn", 0, 3).name != Case("wine-fcn", 0).name


def test_a_falling_rate_is_that_of_a_scheduler() -> None:
    """Under a bound, which a scheduler leaves where it is."""
    (_, fit, _), (_, other, _) = (prepared(Case("wine-fcn", 0), Settings()) for _ in range(2))
    clock, turns = Turns(6), ours(search="bounded", lr=50.0)
    moves = turns(fit, clock)
    optimizer = OCNOpt(other.model, search="bounded", lr=50.0)
    schedule = LambdaLR(optimizer, lambda step: 1 - step / 6)
    for rows, _ in zip(other.batches(), range(6), strict=False):
        clock.start()
        next(moves)
        clock.stop()
        optimizer.zero_grad()
        optimizer.backward(*other.forward(rows))
        optimizer.step()
        schedule.step()
    weights = zip(fit.model.parameters(), other.model.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in weights)


def test_a_trial_repeats_exactly(tmp_path: Path) -> None:
    losses = []
    for name in ("a", "b"):
        search = Search(tmp_path / name, (Case("wine-fcn", 0),), Settings(steps=5), trials=3)
        search.folder.mkdir()
        search.work(0)
        losses.append([trial.value for trial in finished(search.study())])
    assert losses[0] == losses[1] and len(set(losses[0])) == 3


def test_the_defaults_of_the_space_are_those_of_the_library() -> None:
    model = nn.Linear(2, 2)
    found, known = OCNOpt(model, **space.options(space.defaults())), OCNOpt(model)
    for name in ("curvature", "search", "terminal", "feedback", "saturation"):
        assert getattr(found, name) == getattr(known, name), name
    assert found.param_groups[0]["lr"] == known.param_groups[0]["lr"]


def test_every_knob_reaches_the_optimizer() -> None:
    for knob in space.KNOBS:
        other = knob.choices[0] if isinstance(knob, space.Choice) else knob.low
        assert space.options({**space.defaults(), knob.name: other}) != space.options(space.defaults()), knob.name
    for name in space.PERIODS:
        assert getattr(space.options({**space.defaults(), name: 3})["curvature"], name) == 3


def test_a_run_that_diverged_counts_and_does_not_decide() -> None:
    assert gain(2.0, 1.0) == pytest.approx(math.log(2)) and gain(0.5, 1.0) == pytest.approx(-math.log(2))
    assert gain(math.inf, 1.0) == gain(math.nan, 1.0) == gain(1e9, 1.0) == CLIP
    assert gain(1.0, math.inf) == gain(0.0, 1.0) == -CLIP


def told_of(folder: Path, ratio: float) -> Told:
    """A candidate whose losses are `ratio` times those of the defaults, times 0.9 or 1.1."""
    cases = tuple(Case("wine-fcn", seed) for seed in range(6))
    search = Search(folder, (), Settings(lrs=(1e-3,)))
    (folder / "runs").mkdir(parents=True)
    search.study()
    for case in cases:
        losses = {"adam-0.001": 0.5, "default": 1.0, "trial-7": ratio * (0.9 if case.seed % 2 else 1.1)}
        for name, loss in losses.items():
            run = {"loss": loss, "score": 0.9, "seconds": 0.01, "environment": {}}
            (folder / "runs" / f"{name}-{case.name}.json").write_text(json.dumps(run))
    told = Told(search, 1, [Group("seen", ()), Group("problems left out", cases)])
    told.candidates = [told.candidates[0], Candidate("trial-7", "trial 7", space.defaults())]
    told.groups = [Group("problems left out", told.complete(cases, told.candidates))]
    return told


@pytest.mark.parametrize(
    "ratio, words", [(0.5, "lower for certain"), (1.0, "not certain to differ"), (2.0, "higher for certain")]
)
def test_what_is_certain_follows_from_the_interval(tmp_path: Path, ratio: float, words: str) -> None:
    told = told_of(tmp_path / "t", ratio)
    assert words in told.sentence(told.candidates[1], told.groups[0])
    table = told.checks(told.groups[0])
    assert table.rows[0][2] == "2" and float(table.rows[1][2]) == pytest.approx(2 * ratio, rel=0.11)


def test_an_unchecked_candidate_is_said_to_be_one(tmp_path: Path) -> None:
    told = told_of(tmp_path / "t", 1.0)
    for path in (tmp_path / "t" / "runs").glob("trial-7-*"):
        path.unlink()
    told.groups = [Group("problems left out", told.complete(told.groups[0].cases, told.candidates))]
    assert (
        "has not been checked" in told.sentence(told.candidates[1], told.groups[0])
        and not told.checks(told.groups[0]).rows
    )


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--trials", "0"], "--trials is 0; it must be at least 1."),
        (["--left-out", "digits-fcn"], "digits-fcn cannot be searched on and left out."),
        (["--problems", "wave"], "There is no problem 'wave'"),
        (["--problems"], "--problems and --left-out must name a problem each."),
    ],
)
def test_what_cannot_be_is_one_sentence(options: list[str], sentence: str, capsys) -> None:
    assert main(["tune", *options]) == 2
    assert sentence in capsys.readouterr().err


def test_without_optuna_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["tune"]) == 2 and "pip install optuna" in capsys.readouterr().err
