"""The page on compatibility is that of today's checks, and its script works."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from unittest import mock

import compatibility
import pytest
from compatibility import COLUMNS, Compatibility
from matrix import MARKS, Notes, combinations, matrix
from page_parts import ROOT, Table, tables

from ocnopt.curvature import TABLE as CURVATURES
from ocnopt_lab.acceptance.apart import measure
from ocnopt_lab.acceptance.check import Outcome
from ocnopt_lab.acceptance.contenders import CONTROL, OURS, PEERS, ROLLOUTS, VALUES, combination, get
from ocnopt_lab.acceptance.suite import CHECKS
from ocnopt_lab.errors import LabError

PAGE = ROOT / "docs" / "compatibility.md"
NAMES = [check.name for check in CHECKS]


def under(heading: str) -> Table:
    (table,) = (table for table in tables(PAGE) if table.heading == heading)
    return table


def column(table: Table, title: str) -> dict[str, str]:
    at = table.header.index(title)
    return {row[0]: row[at] for row in table.rows}


@pytest.mark.parametrize(
    "heading",
    ["OCNOpt, AdamW and others", "Every value and roll-out", "What a user sees where a check fails"],
)
def test_rows_are_the_checks(heading: str) -> None:
    assert [row[0] for row in under(heading).rows] == NAMES


def test_columns_are_the_contenders() -> None:
    assert under("OCNOpt, AdamW and others").header == ("check", *COLUMNS.values())
    assert {CONTROL, *CURVATURES, *PEERS} == COLUMNS.keys()


@pytest.mark.parametrize("name", [CONTROL, *CURVATURES])
def test_the_control_and_ours_pass_everything(name: str) -> None:
    found = column(under("OCNOpt, AdamW and others"), COLUMNS[name])
    assert found == dict.fromkeys(NAMES, MARKS["passed"])


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_other_values_pass_what_they_do_not_refuse(value: str, rollout: str) -> None:
    refused = get(combination("ekfac", value, rollout)).refuses
    for check, mark in column(under("Every value and roll-out"), f"{value}, {rollout}").items():
        assert mark[0] == MARKS["refused" if check in refused else "passed"]


def test_every_peer_was_measured() -> None:
    """And passes something: a column of crosses alone would be that of a package that cannot be used here."""
    for name in PEERS:
        marks = [mark[0] for mark in column(under("OCNOpt, AdamW and others"), COLUMNS[name]).values()]
        assert MARKS["missing"] not in marks and MARKS["passed"] in marks


def test_symptoms_are_those_of_the_checks() -> None:
    assert under("What a user sees where a check fails").rows == [(check.name, check.symptom) for check in CHECKS]


# the script


def test_a_part_of_the_script(apart: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One process puts both to two checks, one of which the second must fail; only ours decide about the exit code."""
    assert Compatibility(("rmsprop", "deaf"), ("MLP", "step(closure)")).run() == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| MLP | ✓ | ✓ |" in lines
    assert "| step(closure) | ✓ | ✗ (1) |" in lines
    assert any(line.startswith("1. deaf: `step(closure) returns None") for line in lines)


def test_what_never_ends_costs_one_check(apart: Path) -> None:
    found = measure(["adamw"], ["MLP", "Conv1d"], 0.0)
    assert [outcome.note for outcome in found.values()] == ["no end after 0 s"] * 2


def test_a_crash_costs_one_check(apart: Path) -> None:
    """A name that nobody knows ends the process before its first outcome."""
    found = measure(["adamw"], ["no such check"], 300.0)
    assert found["adamw", "no such check"] == Outcome("failed", "the process ended with exit code 1")


def test_a_package_that_is_not_there_is_named() -> None:
    with mock.patch("ocnopt_lab.acceptance.apart.version", side_effect=PackageNotFoundError):
        assert measure(["SINGD"], NAMES, 1.0) == {
            ("SINGD", name): Outcome("missing", "singd is not installed") for name in NAMES
        }


def test_a_page_needs_everything() -> None:
    with pytest.raises(LabError, match="needs all contenders and checks"):
        Compatibility(("adamw",), write=PAGE).run()
    with pytest.raises(LabError, match="Not known: nobody"):
        Compatibility(("nobody",)).run()


def test_the_exit_code_is_that_of_ours() -> None:
    bad = {"adamw": {"MLP": Outcome("failed", "x")}}
    with mock.patch.object(compatibility.Compatibility, "measured", return_value=bad):
        assert Compatibility(("adamw",), ("MLP",)).run() == 1


# tables


def test_the_same_note_has_one_number() -> None:
    failed, other = Outcome("failed", "a | `b`"), Outcome("refused", "c")
    notes = Notes()
    assert [notes.mark("x", failed), notes.mark("x", failed), notes.mark("y", other)] == ["✗ (1)", "✗ (1)", "— (2)"]
    assert notes.text() == "1. x: `a | 'b'`\n2. y: `c`"
    text = matrix({"x": {check.name: failed for check in CHECKS}}, CHECKS, {"x": "X"})
    assert text.startswith("| check | X |") and text.count("✗ (1)") == len(CHECKS)


def test_combinations_that_differ_are_told_apart() -> None:
    good, bad = Outcome("passed"), Outcome("failed", "broken")
    results = {name: {"MLP": bad if name == "kfac coupled" else good} for name in OURS}
    text = combinations(results, CHECKS[:1], tuple(CURVATURES))
    assert "| MLP | ✓ | ✓ | sgd ✓, rmsprop ✓, adam ✓, kfac ✗ (1), ekfac ✓ | ✓ |" in text
