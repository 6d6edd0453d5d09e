"""The script behind docs/results: pages of whatever is complete, verdicts from the runs."""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import results
import results_robustness
import results_studies
from results import Pages
from results_robustness import Widths, verdict
from results_text import Row, Share, count, counts, shares
from rich.console import Console

from ocnopt_lab.commands.ablate import Ablate
from ocnopt_lab.commands.compare import Compare
from ocnopt_lab.commands.robustness import Robustness
from ocnopt_lab.errors import LabError
from ocnopt_lab.studies.robustness import OFF, ON, Grid
from ocnopt_lab.studies.summaries import Result

QUIET = Console(quiet=True)
PAGES = {
    "ddpnopt": "table", "ablation": "ablation", "robustness": "robustness", "time-to-target": "times",
    "defaults": "defaults",
}  # fmt: skip


def small(out: Path, device: str) -> dict[str, Any]:
    one: dict[str, Any] = {"problems": ("wine-fcn",), "epochs": 1, "seeds": 1}
    found = {
        "table-wine-fcn": Compare(**one, optimizers="ocnopt,ekfac-off,adam", sweep="none"),
        "emsa-wine-fcn": Compare(**one, optimizers="emsa", sweep="none"),
        "ablate-wine": Ablate(**one, axes=("kappa",)),
        **{
            f"robustness-wine-fcn-{s}": Robustness(**one, search=s, rates=2, values=(32,))
            for s in results_studies.SEARCHES
        },
    }
    return {name: results_studies.placed(study, out / name, device) for name, study in found.items()}


@pytest.fixture
def pages(apart: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(results, "studies", small)
    monkeypatch.setattr(results_robustness, "ROBUST", {"wine-fcn": {}})
    (apart / "docs" / "results").mkdir(parents=True)
    (apart / "docs" / "images").mkdir()
    for name, section in PAGES.items():
        path = apart / "docs" / "results" / f"{name}.md"
        path.write_text(f"# {name}\n<!-- begin:{section} -->\n<!-- end:{section} -->\n")
    return apart / "docs" / "results"


def test_pages_grow_with_what_is_complete(pages: Path) -> None:
    assert Pages(write=pages).work(QUIET) == 0
    assert all("No run of it is complete yet." in (pages / f"{name}.md").read_text() for name in PAGES)
    assert Pages(run=("table-wine-fcn", "emsa-wine-fcn"), write=pages).work(QUIET) == 0
    text = (pages / "ddpnopt.md").read_text()
    assert "| wine-fcn | 98.18 |" in text and "--optimizers emsa" in text
    assert "No run" in (pages / "robustness.md").read_text()
    assert "| wine-fcn | cpu |" in (pages / "time-to-target.md").read_text()
    assert Pages(run=("all",), write=pages).work(QUIET) == 0
    text = (pages / "robustness.md").read_text()
    assert "| wine-fcn |" in text and "![" in text and "--search fixed" in text
    assert "feedback lowers the training loss of" in (pages / "ablation.md").read_text()
    drawn = {path.name for path in (pages.parent / "images").iterdir()}
    assert drawn == {"robustness.png", "robustness-fixed.png", "robustness-bounded.png", "ablate-wine.png"}


def test_shares_are_those_of_the_curves(pages: Path) -> None:
    Pages(run=("table-wine-fcn",)).work(QUIET)
    study = small(Path("runs/results"), "cpu")["table-wine-fcn"]
    found = {x.method: x for x in shares(study)}
    runs = {run.method: run for run in study.plan()}
    rivals = {name: json.loads((runs[name].path / "summary.json").read_text()) for name in ("adam", "ekfac-off")}
    target = min(rival["train_loss"] for rival in rivals.values())
    best = min(rivals, key=lambda name: rivals[name]["train_loss"])

    def steps(name: str) -> float:
        rows = map(json.loads, (runs[name].path / "metrics.jsonl").read_text().splitlines())
        met = (row["step"] for row in rows if row["loss" if row["kind"] == "steps" else "train_loss"] <= target)
        return next(met, math.inf)

    assert math.isfinite(steps(best))
    assert found["ocnopt"].steps == pytest.approx(steps("ocnopt") / min(steps("adam"), steps("ekfac-off")))


def widths(reach: dict[tuple[str, str], float]) -> Widths:
    """Accuracy 0.9 up to a rate, 0.5 beyond; half a decade from rate to rate."""
    rates = 10.0 ** np.arange(-2, 2.5, 0.5)

    def grid(search: str) -> Grid:
        return Grid("p", [
            Result("p", method, seed, 0.1, 0.9 if rate <= reach[search, method] else 0.5, 1.0, 0.1, False, {},
                   rate=float(rate), knob=32.0)
            for method in (ON, OFF) for rate in rates for seed in range(2)
        ])  # fmt: skip

    return Widths("p", {search: grid(search) for search in results_studies.SEARCHES})


REACH = {
    ("fixed", OFF): 0.1, ("fixed", ON): 0.32, ("model", OFF): 1.0, ("model", ON): 1.0, ("bounded", OFF): 100.0,
    ("bounded", ON): 100.0,
}  # fmt: skip


def test_widths_are_compared_across_searches() -> None:
    found = widths(REACH)
    assert found.decades("fixed", OFF) == pytest.approx(1.5) and found.decades("bounded", ON) == pytest.approx(4.5)
    assert found.gain("fixed", ("fixed", OFF)).median == pytest.approx(0.5)
    assert found.gain("bounded", ("fixed", OFF)).low == pytest.approx(3.0)
    text = verdict([found, widths({**REACH, ("fixed", ON): 0.1})])
    assert "at a fixed step, feedback wins at least half a decade on **1 of 2**" in text
    assert 'with search="bounded", feedback wins at least half a decade on **2 of 2**' in text
    assert "is the better one at **1 of 12** points" in text, "of the six rates above 0.1, feedback reaches one"


def test_a_search_that_is_poor_everywhere_is_not_wide() -> None:
    found = widths(REACH)
    found.grids["bounded"].scores -= 0.3
    assert found.decades("bounded", ON) == 0.0 and found.decades("fixed", OFF) == pytest.approx(1.5)


def test_verdicts_of_the_table() -> None:
    row = Row("p", 95.0, 94.0, 95.0, 95.5, "adam", None)
    assert row.verdicts() == [True, False, None]
    text = counts([row, Row("q", 90.0, 90.0, 91.0, 89.0, "sgd", 80.0)])
    assert "its twin without feedback on **1 of 2**" in text and "Adam on **1 of 2**" in text
    assert "E-MSA on **1 of 1**" in text


def test_counts_of_times() -> None:
    found = [Share("p", "ocnopt", "g", x, 0.5, 2.0) for x in (0.5, 0.8, 1.0, 1.3, math.inf)]
    text = count(found)
    assert "on **2 of 5** and more than 1.25 times on **2**; at most 0.8 times the steps on **5**" in text


def test_every_study_names_runs_of_its_own() -> None:
    known = results_studies.studies(Path("r"), "cpu")
    paths = [run.path for study in known.values() for run in study.plan()]
    assert len(set(paths)) == len(paths) and len(known) == 9 + 5 + 18 + 2
    placed = {name: study.device for name, study in results_studies.studies(Path("r"), "cuda").items()}
    assert placed["table-mnist-cnn"] == placed["robustness-resnet-small-model"] == "cuda"
    assert placed["table-mnist-fcn"] == placed["time-mnist-cnn-cpu"] == "cpu"


def test_what_cannot_be_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabError, match="There is no study 'x'; choose from table-wine-fcn"):
        Pages(run=("x",)).work(QUIET)
    monkeypatch.setattr("sys.argv", ["results"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(results.__file__, run_name="__main__")
    assert left.value.code == 2
