"""The script that compares optimizers on equations: resumable, with a table and pictures."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace
from pathlib import Path

import equations
import pytest
from equations import Equations
from rich.console import Console

from ocnopt_lab.errors import LabError

BENCH = Equations(("poisson-1d",), (0,), seconds=0.2, adam_lrs=(1e-2,), out=Path("e"))


def test_runs_are_made_once_and_shown(apart: Path) -> None:
    assert BENCH.run(Console(quiet=True)) == 0
    files = {path.name: path.stat().st_mtime_ns for path in Path("e").glob("*.json")}
    assert len(files) == 4
    assert "| poisson-1d |" in Path("e/results.md").read_text()
    assert all(
        Path("e", name).read_bytes().startswith(b"\x89PNG") for name in ("poisson-1d-0.png", "poisson-1d-0-errors.png")
    )
    Path("e/poisson-1d-lbfgs-0.json").unlink()
    assert BENCH.run(Console(quiet=True)) == 0
    again = {path.name: path.stat().st_mtime_ns for path in Path("e").glob("*.json")}
    assert [name for name in files if files[name] != again[name]] == ["poisson-1d-lbfgs-0.json"]
    with pytest.raises(LabError, match="was run with other --seconds"):
        replace(BENCH, seconds=0.3).run(Console(quiet=True))
    broken = Path("e/poisson-1d-lbfgs-0.json")
    broken.write_text('{"budget": 0.2, "marks": [{"seconds": 1, "steps": 1, "loss": null, "error": null}]}')
    assert BENCH.errors("poisson-1d", "lbfgs") == [math.inf]
    assert BENCH.rivals("poisson-1d")[-1] == "lbfgs"


def test_what_cannot_be_is_one_sentence(apart: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LabError, match="There is no equation wave; choose one of poisson-1d"):
        replace(BENCH, equations=("wave",)).run(Console(quiet=True))
    with pytest.raises(LabError, match="--seconds is 0; it must be positive"):
        replace(BENCH, seconds=0.0).run(Console(quiet=True))
    monkeypatch.setattr("sys.argv", ["equations", "--equations", "wave"])
    with pytest.raises(SystemExit) as left:
        runpy.run_path(equations.__file__, run_name="__main__")
    assert left.value.code == 2
