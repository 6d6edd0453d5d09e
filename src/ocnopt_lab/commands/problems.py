"""`ocnopt problems`: the tables of problems."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ocnopt_lab.problems import GROUPS, Problem


@dataclass(frozen=True)
class Problems:
    """List the problems that can be trained, in groups."""

    def run(self, console: Console) -> int:
        """Prints the tables."""
        for title, problems in GROUPS.items():
            if problems:
                console.print(_table(title, problems))
        return 0


def _table(title: str, problems: Sequence[Problem]) -> Table:
    table = Table(title=title)
    table.add_column("problem", no_wrap=True)
    table.add_column("network")
    table.add_column("data", no_wrap=True)
    table.add_column("batch", justify="right")
    table.add_column("epochs", justify="right")
    for problem in problems:
        data = "own" if problem.data == problem.name else problem.data  # no room for a long name twice
        table.add_row(problem.name, problem.description, data, str(problem.batch_size), str(problem.epochs))
    return table
