"""`ocnopt robustness`: widths of the usable range of rates, and what divergence does to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_cases import SMALL, check_layout, done, table

from ocnopt_lab.cli import main
from ocnopt_lab.commands.robustness import Robustness
from ocnopt_lab.studies.robustness import OFF, ON, Grid, usable, width
from ocnopt_lab.studies.robustness import Robustness as Told
from ocnopt_lab.studies.summaries import Result
from ocnopt_lab.tasks import Classification, Regression

RATES = tuple(10.0**k for k in range(-2, 3))
ACCURACY, ERROR = Classification.measure, Regression.measure
INF = math.inf


def grid_of(score: Callable[[str, float, int], float], seeds: int = 4, knobs: tuple[float, ...] = (32.0,)) -> Grid:
    return Grid("p", results_of(score, seeds, knobs))


def results_of(score: Callable[[str, float, int], float], seeds: int, knobs: tuple[float, ...]) -> list[Result]:
    return [
        Result(
            "p", method, seed, 0.1, score(method, rate, seed), 1.0, 0.01, math.isinf(score(method, rate, seed)), {},
            rate=rate, knob=knob,
        )
        for method in (ON, OFF) for rate in RATES for seed in range(seeds) for knob in knobs
    ]  # fmt: skip


def plateau(method: str, rate: float, seed: int) -> float:
    """With feedback the best up to a rate of 10, without it up to 0.1; beyond, it diverges."""
    return 0.9 if rate <= (10 if method == ON else 0.1) else -INF


def test_a_study_of_small_runs() -> None:
    study = Robustness(**SMALL, rates=2, values=(16, 64), seeds=1)
    found = done(study)
    check_layout(found, study)
    assert len(found["runs"]) == 2 * 2 * 2 and len(table(found, "over the grid")) == 4
    assert {run["knob"] for run in found["runs"]} == {16, 64}
    scores = {(r["method"], r["knob"], r["rate"]): r["test_score"] for r in found["runs"]}
    (row,) = (row for row in table(found, "width of the usable") if row["batch size"] == "16")
    best = max(score for (method, knob, _), score in scores.items() if (method, knob) == (ON, 16))
    assert float(row["best with feedback"]) == pytest.approx(100 * best, abs=0.01)


def test_widths_by_hand() -> None:
    found = grid_of(plateau)
    assert found.step == pytest.approx(1.0)
    assert found.widths().tolist() == [[4.0, 2.0]]
    gain = found.gain()
    assert (gain.median, gain.low, gain.high) == (2.0, 2.0, 2.0)
    assert "Ratio: **2.00**" in Told("batch size", results_of(plateau, 4, (32.0,))).sentences()[0]


def test_a_gap_ends_a_range() -> None:
    assert width(np.array([True, True, False, True]), 0.5) == 1.0 and width(np.array([False]), 0.5) == 0.0


def test_within_a_hundredth_of_a_share_and_one_percent_of_an_error() -> None:
    assert usable(np.array([0.9, 0.891, 0.889]), 0.9, ACCURACY).tolist() == [True, True, False]
    assert usable(np.array([2.0, 2.01, 2.03]), 2.0, ERROR).tolist() == [True, True, False]


def test_a_method_that_is_poor_everywhere_is_not_wide() -> None:
    found = grid_of(lambda method, rate, seed: 0.5 if method == ON else 0.9)
    assert found.widths().tolist() == [[0.0, 5.0]]


def test_where_everything_diverges_there_is_no_width() -> None:
    found = Told("batch size", results_of(lambda *_: -INF, 2, (32.0,)))
    assert found.grids[0].widths().tolist() == [[0.0, 0.0]] and "**none**" in found.sentences()[0]


def test_the_interval_tells_seeds_that_disagree() -> None:
    found = grid_of(lambda method, rate, seed: 0.9 if rate <= (1 if seed % 2 else 0.01) or method == OFF else 0.1)
    assert found.gain().low < found.gain().high


def test_only_complete_seeds_count() -> None:
    results = results_of(plateau, 3, (32.0,))
    assert Grid("p", results[:-1]).seeds == [0, 1]
    study = Told("batch size", [x for x in results if x.seed == 0][:-1])
    assert not study.tables() and "no seed is complete" in study.sentences()[0]


def test_a_picture_shows_what_diverged(tmp_path: Path) -> None:
    mixed = [replace(x, knob=k) for k in (16.0, 32.0) for x in results_of(plateau, 1, (16.0,))]
    (picture,) = Told("batch size", mixed).draw(tmp_path)
    assert (tmp_path / picture.file).stat().st_size > 10_000


def test_the_grid_is_centred_on_the_default() -> None:
    grid = Robustness(problems=("digits-fcn",)).grid()
    assert len(grid) == 9 and grid[4] == 0.25 and grid[-1] / grid[0] == pytest.approx(1e4)
    assert Robustness(problems=("digits-fcn",), search="fixed", curvature="rmsprop").grid()[4] == 1e-3


def test_the_knob_reaches_the_runs() -> None:
    plan = Robustness(problems=("digits-fcn",), seeds=1).plan()
    assert len(plan) == 9 * 3 * 2 and {run.config.batch_size for run in plan} == {16, 32, 64}
    damped = Robustness(problems=("digits-fcn",), seeds=1, knob="damping", rates=2).plan()
    assert {run.config.optimizer.damping for run in damped} == {1e-4, 1e-3, 1e-2}
    assert {run.config.batch_size for run in damped} == {32}


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--rates", "1"], "--rates is 1 and --decades 4"),
        (["--curvature", "newton"], "no metric 'newton'; choose one of"),
        (["--values", "0"], "--batch-size is 0; it must be at least 1."),
    ],
)
def test_what_cannot_be_is_one_sentence(options: list[str], sentence: str, capsys) -> None:
    assert main(["robustness", "digits-fcn", *options]) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
