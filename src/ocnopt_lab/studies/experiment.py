"""A study as a command of `ocnopt`: problems, a number of seeds, a folder that the same command goes on in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from ocnopt_lab import problems
from ocnopt_lab.errors import LabError
from ocnopt_lab.studies.results import Results
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.study import Study, show
from ocnopt_lab.studies.summaries import Result, at_once, many, results_of


@dataclass(frozen=True, kw_only=True)
class Experiment(Study):
    """A subclass names its kind, plans the runs of a seed on a problem, and tells what came of all."""

    KIND = ""
    UNTOLD = (*Study.UNTOLD, "problems")

    problems: Positional[Annotated[tuple[str, ...], arg(metavar="PROBLEM")]]
    """Names of one or more problems, see `ocnopt problems`."""
    seeds: int = 5
    """Number of seeds, from 0 on: initial weights and batch order, the same for all methods."""
    out: Path | None = None
    """Folder for the runs and results. Left out: runs/<command>-<problems>."""

    @property
    def folder(self) -> Path:
        return self.out or Path("runs") / f"{self.KIND}-{'+'.join(self.problems)}"

    def plan(self) -> list[Run]:
        """All methods of a seed before the next seed begins."""
        if not self.problems:
            raise LabError(f"Which problem? Choose from {', '.join(problems.PROBLEMS)}.")
        if self.seeds < 1:
            raise LabError(f"--seeds is {self.seeds}; it must be at least 1.")
        found = (run for seed in range(self.seeds) for name in self.problems for run in self.runs_of(name, seed))
        return list({run.path: run for run in found}.values())

    def runs_of(self, problem: str, seed: int) -> Sequence[Run]:
        """The runs of one seed; those of the same path are the same."""
        raise NotImplementedError

    def results(self, results: Sequence[Result], runs: Sequence[Run]) -> Results:
        """What came of the complete runs, at least one; draws the pictures. `runs` are theirs, in the same order."""
        raise NotImplementedError

    def report(self, console: Console, runs: Sequence[Run]) -> None:
        complete = [run for run in runs if run.summary() is not None]
        if complete:
            found = self.results(results_of(complete), complete)
            show(console, found.markdown(), found.write(self.folder))

    def command(self) -> str:
        """What to type to get these results."""
        return " ".join(["ocnopt", self.KIND, *self.problems, *self.options()])

    def circumstances(self) -> str:
        """How it was measured."""
        return (
            f"{many(self.seeds, 'seed')}, the same for all methods; {at_once(self.jobs)}; rates fall linearly to zero. "
            "Losses and scores are over the whole sets (or as many samples as were asked for) after the last epoch, "
            "seconds are those spent in training steps. Medians over the seeds, with bootstrap intervals of 95 % in "
            "brackets; a run that diverged has an infinite loss."
        )
