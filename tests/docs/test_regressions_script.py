"""The script that compares optimizers on regressions: resumable, with verdicts from the marks of the runs."""

from __future__ import annotations

import json
import math
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
import regressions
from regression_text import Curves, families, share_of, summary, verdict
from regressions import PROBLEMS, Regressions
from rich.console import Console

from ocnopt_lab.errors import LabError
from ocnopt_lab.timed import Mark

BENCH = Regressions(("function-forrester",), (0, 1), seconds=0.1, adam_lrs=(1e-2,), samples=40, out=Path("r"))


def test_runs_are_made_once_and_shown(apart: Path) -> None:
    page = apart / "page.md"
    page.write_text("before\n<!-- begin:regressions -->\n<!-- end:regressions -->\nafter\n")
    bench = replace(BENCH, write=page)
    assert bench.run(Console(quiet=True)) == 0
    files = {path.name: path.stat().st_mtime_ns for path in Path("r").glob("function-*.json")}
    assert len(files) == 2 * len(BENCH.methods("function-forrester")) == 2 * 5
    text = page.read_text()
    assert "| function-forrester | ocnopt-coupled |" in text and text.startswith("before") and text.endswith("after\n")
    assert Path("r/function-forrester.png").read_bytes().startswith(b"\x89PNG")
    told = json.loads(Path("r/results.json").read_text())
    assert told["command"] in text and len(told["runs"]["function-forrester"]["lbfgs"]) == 2
    Path("r/function-forrester-lbfgs-1.json").unlink()
    assert bench.run(Console(quiet=True)) == 0
    again = {path.name: path.stat().st_mtime_ns for path in Path("r").glob("function-*.json")}
    assert [name for name in files if files[name] != again[name]] == ["function-forrester-lbfgs-1.json"]
    with pytest.raises(LabError, match="was run with other --seconds or --samples"):
        replace(BENCH, samples=41).run(Console(quiet=True))


def test_what_cannot_be_is_one_sentence(apart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for change, said in (
        ({"problems": ("wave",)}, "There is no problem 'wave'"),
        ({"problems": ("wine-fcn",)}, "wine-fcn is no regression; choose from function-forrester"),
        ({"seconds": 0.0}, "--seconds is 0; it must be positive"),
    ):
        with pytest.raises(LabError, match=said):
            replace(BENCH, **change).run(Console(quiet=True))  # type: ignore[arg-type]
    monkeypatch.setattr("sys.argv", ["regressions", "--problems", "wave"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(regressions.__file__, run_name="__main__")
    assert left.value.code == 2


def test_all_regressions_are_there() -> None:
    count = {kind: sum(name.startswith(kind) for name in PROBLEMS) for kind in ("function-", "uci-", "autoencoder-")}
    assert count == {"function-": 16, "uci-": 9, "autoencoder-": 2}


def marks(*points: tuple[float, float, float, float]) -> list[Mark]:
    """(seconds, loss, error, validation) each."""
    return [Mark(seconds, 1, loss, error, validation) for seconds, loss, error, validation in points]


def curves(ours: list[Mark], *rivals: list[Mark]) -> Curves:
    return {"ocnopt-coupled": [ours] * 2, **{f"rival-{j}": [rival] * 2 for j, rival in enumerate(rivals)}}


OURS = marks((1, 0.5, 3.0, 0.3), (2, 0.05, 2.0, 0.2), (4, 0.001, 4.0, 0.4))
SLOW = marks((1, 0.9, 9.0, 0.9), (4, 0.1, 1.0, 0.1))
DIVERGED = marks((1, 0.9, 1.0, 0.9), (4, math.nan, math.nan, math.nan))


def test_a_verdict_is_computed_from_the_marks() -> None:
    found = verdict("uci-yacht", curves(OURS, SLOW, DIVERGED))
    assert (found.rival, found.loss, found.rival_loss) == ("rival-0", 0.001, 0.1)
    assert found.ratio == pytest.approx(0.01) and found.share == 0.5
    assert (found.error, found.best_error) == (4.0, 1.0)
    assert (found.stopped, found.best_stopped, found.spread) == (2.0, 1.0, 0.0)
    assert not found.stops_as_well
    assert replace(found, spread=1.0).stops_as_well


def test_a_loss_that_is_not_reached_has_no_time() -> None:
    assert share_of(SLOW, OURS) == math.inf
    assert share_of(OURS, SLOW) == 0.5
    assert share_of(SLOW, SLOW) == 1.0


def test_summaries_count_what_was_met() -> None:
    found = [verdict(name, curves(OURS, SLOW)) for name in ("function-park", "function-park-noisy", "uci-yacht")]
    kinds = families([*found, replace(found[0], loss=0.2)])
    assert {name: len(own) for name, own in kinds.items()} == {"function-*": 2, "function-*-noisy": 1, "uci-*": 1}
    text = summary(("function-*", kinds["function-*"]))
    assert "at most 1/100 of the rival's on 1 of 2, lower on 1 of 2" in text
    assert "in a quarter of its time on 0 of 2" in text
