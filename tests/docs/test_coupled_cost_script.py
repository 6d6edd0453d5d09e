"""The script that measures what coupled steps cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from coupled_cost import CoupledCost, table
from coupled_timing import Case, Cost, fit_of
from rich.console import Console

from ocnopt_lab.errors import LabError

BENCH = CoupledCost(widths=(4, 6), rows=(8, 16), outputs=(1, 2), repeats=1, out=Path("c"))


def test_costs_are_measured_and_put_into_a_page(apart: Path) -> None:
    page = apart / "page.md"
    page.write_text("<!-- begin:coupled-cost -->\n<!-- end:coupled-cost -->\n")
    assert replace(BENCH, write=page).run(Console(quiet=True)) == 0
    costs = json.loads(Path("c/results.json").read_text())["costs"]
    assert {(c["width"], c["rows"] * c["outputs"], c["outputs"]) for c in costs} == {
        (w, r, k) for w in (4, 6) for r in (8, 16) for k in (1, 2)
    }
    assert all(c["step"] > c["adam"] > 0 and c["algebra"] > 0 for c in costs)
    assert page.read_text().count("\n| 4 |") == 4
    assert Path("c/cost.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_is_one_sentence() -> None:
    with pytest.raises(LabError, match="--repeats must be at least 1"):
        replace(BENCH, repeats=0).run(Console(quiet=True))


def test_cases_count_their_parameters_and_tables_their_memory() -> None:
    case = Case(4, 8, 2)
    assert case.parameters == sum(p.numel() for p in fit_of(case)[0].parameters())
    text = table([Cost(4, 2048, 2, 100, 0.2, 0.001, 0.1)])
    assert "| 4 | 100 | 2048 | 2 | 200.0 | 100.0 | 2.00 | 1.00 | 268 |" in text
