"""Studies whose runs are done in this process, which is quicker than one process for each."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console

from ocnopt_lab.runs import session
from ocnopt_lab.studies.experiment import Experiment

SMALL: dict[str, Any] = {"problems": ("digits-fcn",), "epochs": 2, "train_samples": 400, "eval_samples": 100}


def done(study: Experiment) -> dict[str, Any]:
    """results.json after all runs."""
    for run in study.plan():
        session.start(run.config, run.path).run(Console(quiet=True))
    assert study.run(Console(quiet=True)) == 0
    return json.loads((study.folder / "results.json").read_text())


def check_layout(found: dict[str, Any], study: Experiment) -> None:
    """What is promised to readers of results.json."""
    assert {"command", "kind", "problem", "environment", "sentences", "runs", "tables", "pictures"} == found.keys()
    assert found["command"].startswith(f"ocnopt {found['kind']} digits-fcn") and found["kind"] == study.KIND
    for table in found["tables"]:
        assert table["rows"] and all(len(row) == len(table["columns"]) for row in table["rows"])
    for picture in found["pictures"]:
        assert (study.folder / picture["file"]).read_bytes().startswith(b"\x89PNG")
    for run in found["runs"]:
        assert (study.folder / run["folder"] / "summary.json").exists() and run["status"] == "finished"
        assert run["seconds"] > 0 and run["peak_memory_mb"] > 100


def table(found: dict[str, Any], title: str) -> list[dict[str, str]]:
    """The rows of the one table whose title has these words."""
    (one,) = (x for x in found["tables"] if title in x["title"])
    return [dict(zip(one["columns"], row, strict=True)) for row in one["rows"]]
