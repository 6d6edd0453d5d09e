"""`ocnopt problems`: the table of problems."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from ocnopt_lab.problems import PROBLEMS


@dataclass(frozen=True)
class Problems:
    """List the problems that can be trained."""

    def run(self, console: Console) -> int:
        """Prints the table."""
        table = Table("problem", "network", "data", title="Problems")
        table.add_column("batch", justify="right")
        table.add_column("epochs", justify="right")
        for problem in PROBLEMS.values():
            table.add_row(problem.name, problem.description, problem.data, str(problem.batch_size), str(problem.epochs))
        console.print(table)
        return 0
