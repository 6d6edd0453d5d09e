"""Outcomes of checks as tables for a page."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from ocnopt_lab.acceptance.check import Check, Outcome
from ocnopt_lab.acceptance.contenders import ROLLOUTS, VALUES, combination

Results = Mapping[str, Mapping[str, Outcome]]
"""Contender → check → outcome."""

MARKS = {"passed": "✓", "refused": "—", "failed": "✗", "missing": "?"}
LONGEST = 220


class Notes:
    """Numbered notes; the same note of the same contender has one number."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[str, str], int] = {}

    def mark(self, contender: str, outcome: Outcome) -> str:
        """The mark of an outcome, with the number of its note."""
        if outcome.status == "passed":
            return MARKS["passed"]
        number = self.numbers.setdefault((contender, outcome.note), len(self.numbers) + 1)
        return f"{MARKS[outcome.status]} ({number})"

    def text(self) -> str:
        """The notes as a list."""
        return "\n".join(f"{number}. {name}: {code(note)}" for (name, note), number in self.numbers.items())


def code(note: str) -> str:
    """A note in backquotes, cut where it is very long."""
    plain = note.replace("`", "'")
    return f"`{plain if len(plain) <= LONGEST else plain[:LONGEST] + ' …'}`"


def table(headers: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(headers)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def matrix(results: Results, checks: Sequence[Check], titles: Mapping[str, str]) -> str:
    """A row per check, a column per contender, and the notes below. titles: contender → what stands above it."""
    notes = Notes()
    rows = [[check.name, *(notes.mark(name, results[name][check.name]) for name in titles)] for check in checks]
    return "\n\n".join(part for part in (table(["check", *titles.values()], rows), notes.text()) if part)


def combinations(results: Results, checks: Sequence[Check], curvatures: Sequence[str]) -> str:
    """A row per check, a column per value and roll-out, each for all curvatures."""
    columns = [(value, rollout) for value in VALUES for rollout in ROLLOUTS]
    notes, rows = Notes(), []
    for check in checks:
        cells = []
        for value, rollout in columns:
            each = {name: results[combination(name, value, rollout)][check.name] for name in curvatures}
            cells.append(together(each, notes, f"{value}, {rollout}"))
        rows.append([check.name, *cells])
    heads = [f"{value}, {rollout}" for value, rollout in columns]
    return "\n\n".join(part for part in (table(["check", *heads], rows), notes.text()) if part)


def together(each: Mapping[str, Outcome], notes: Notes, column: str) -> str:
    """One mark where all curvatures have the same outcome, and one for each otherwise."""
    marks = {name: notes.mark(column, outcome) for name, outcome in each.items()}
    different = set(marks.values())
    return different.pop() if len(different) == 1 else ", ".join(f"{name} {mark}" for name, mark in marks.items())


def symptoms(checks: Sequence[Check]) -> str:
    return table(["check", "what a user sees where it fails"], [[check.name, check.symptom] for check in checks])


def versions(packages: Iterable[str]) -> str:
    """Python and the packages, with those that are not installed named as such."""
    return ", ".join([f"Python {platform.python_version()}", *map(_version, packages)])


def _version(package: str) -> str:
    try:
        return f"{package} {version(package).split('+')[0]}"
    except PackageNotFoundError:
        return f"{package} not installed"
