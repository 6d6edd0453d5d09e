"""A study as a script: methods × problems × seeds, and its text put into a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from pages import insert
from rich.console import Console
from tables import to_json

from ocnopt_lab.errors import exit_code, writing
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.runs import folder
from ocnopt_lab.studies import study
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.study import show
from ocnopt_lab.studies.summaries import Result, results_of


@dataclass(frozen=True, kw_only=True)
class Study(study.Study):
    """What all scripts share; a script names its section on a page, its methods and its tables."""

    SCRIPT = ""
    SECTION = ""
    UNTOLD = (*study.Study.UNTOLD, "write")

    problems: tuple[str, ...] = ()
    """Problems, see `ocnopt problems`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the initial weights and of the batch order, the same for all methods."""
    adam_lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Learning rates of Adam; each falls linearly to zero."""
    out: Path = Path("runs")
    """Folder for the runs, results.json and results.md."""
    write: Path | None = None
    """A page to put the tables into, between its markers for this study."""

    @property
    def folder(self) -> Path:
        return self.out

    def methods(self) -> dict[str, OptimizerConfig]:
        """Name of each method and its optimizer."""
        return {f"adam-{lr:g}": OptimizerConfig("adam", lr=lr) for lr in self.adam_lrs}

    def text(self, results: Sequence[Result], runs: Sequence[Run]) -> str:
        """Tables and sentences as Markdown."""
        raise NotImplementedError

    def run(self, console: Console) -> int:
        code = super().run(console)
        if self.write:
            insert(self.write, self.SECTION, (self.out / "results.md").read_text())
        return code

    def plan(self) -> list[Run]:
        return [
            Run(method, self.config(problem, optimizer, seed), self.out / f"{problem}-{method}-{seed}")
            for seed in self.seeds
            for problem in self.problems
            for method, optimizer in self.methods().items()
        ]

    def report(self, console: Console, runs: Sequence[Run]) -> None:
        """Writes results.json and results.md from the runs that are complete, and shows the tables."""
        results = results_of(runs)
        if not results:
            return
        text = self.text(results, runs)
        folder.write_json(self.out / "results.json", to_json(results, len(self.seeds), self.command()))
        with writing(self.out / "results.md"):
            (self.out / "results.md").write_text(text)
        show(console, text, self.out / "results.md")

    def command(self) -> str:
        """What to type to get these results."""
        return " ".join([f"python benchmarks/{self.SCRIPT}.py", *self.options()])

    @classmethod
    def main(cls, description: str) -> int:
        """The exit code."""
        return exit_code(cls.SCRIPT, lambda: tyro.cli(cls, description=description).run(Console()))
