"""`ocnopt tune`: search for the library's defaults, and check what was found where the search has not looked."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ocnopt_lab import problems
from ocnopt_lab.errors import LabError, writing
from ocnopt_lab.runs import folder
from ocnopt_lab.runs.config import words

if TYPE_CHECKING:
    from ocnopt_lab.tuning.search import Search
    from ocnopt_lab.tuning.told import Group

JSON, MARKDOWN = "results.json", "results.md"


@dataclass(frozen=True, kw_only=True)
class Tune:
    """Search for OCNOpt's defaults with optuna: trials on small problems, the best checked on problems left out.

    The same command goes on: trials are kept in a journal, runs in files of their own.
    """

    problems: tuple[str, ...] = (
        "digits-fcn",
        "uci-energy",
        "function-friedman",
        "autoencoder-digits",
        "fashion-mnist-cnn",
    )
    """Problems that the trials train on, see `ocnopt problems`."""
    left_out: tuple[str, ...] = (
        *("wine-fcn", "uci-concrete", "function-park", "mnist-cnn", "fashion-mnist-fcn", "resnet-small"),
    )
    """Problems for the check, which no trial has seen."""
    trials: int = 100
    """End the search after so many trials."""
    minutes: float | None = None
    """End it after so many minutes, if not all trials are done by then. What is checked is not limited."""
    steps: int = 150
    """Steps of every run, with a rate that falls linearly to zero."""
    samples: int = 4000
    """Train on the first so many samples only."""
    batch: int = 32
    """Samples of a step, at the most."""
    seeds: int = 1
    """Seeds of each problem in a trial."""
    check_seeds: int = 3
    """Seeds of each problem in the checks; others than those of the trials."""
    stretch: int = 4
    """Times the steps of the search that the problems left out are trained for in a last check, of one seed."""
    candidates: int = 2
    """How many of the best trials are checked beside today's defaults."""
    seed: int = 0
    """Of the search."""
    jobs: int = 1
    """Processes at the same time."""
    data_dir: Path | None = None
    """Folder with the data, as for `ocnopt train`."""
    out: Path = Path("runs/tune")
    """Folder for the journal, the runs, results.json and results.md."""

    def run(self, console: Console) -> int:
        """Searches, checks, and tells of all that is there, also after Ctrl-C."""
        self.check()
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        try:
            self.work(console)
        finally:
            self.report(console)
        return 0

    def check(self) -> None:
        """A sentence for what cannot be, before anything runs."""
        for name in (*self.problems, *self.left_out):
            problems.get(name)
        for name in ("trials", "steps", "samples", "batch", "seeds", "check_seeds", "stretch", "candidates", "jobs"):
            if getattr(self, name) < 1:
                raise LabError(f"--{name.replace('_', '-')} is {getattr(self, name)}; it must be at least 1.")
        if not self.problems or not self.left_out:
            raise LabError("--problems and --left-out must name a problem each.")
        if seen := sorted(set(self.problems) & set(self.left_out)):
            raise LabError(f"{', '.join(seen)} cannot be searched on and left out.")
        try:
            import optuna  # noqa: F401
        except ModuleNotFoundError as error:
            raise LabError(
                "`ocnopt tune` needs optuna, which is not installed; `pip install optuna` brings it."
            ) from error

    def work(self, console: Console) -> None:
        from ocnopt_lab.tuning.processes import Check, Task, Trials, Workers, references
        from ocnopt_lab.tuning.search import chosen, periods

        search = self.search()
        search.study()
        groups = self.groups(search)
        cases = [case for group in groups for case in group.cases]
        with Workers(self.jobs) as workers:
            workers.all_of(console, "Adam", references(search, [*search.cases, *cases]))
            search = self.search()  # from now on the minutes count
            workers.all_of(console, "search", [Trials(search, worker) for worker in range(self.jobs)])
            top = chosen(search.study(), self.candidates)
            checks: list[Task] = [Check(search, case, one) for case in cases for one in top]
            checks += [Check(search, case, one) for case in groups[1].cases for one in periods()]
            workers.all_of(console, "check", checks)

    def search(self) -> Search:
        from ocnopt_lab.tuning.cases import Case, Settings
        from ocnopt_lab.tuning.search import Search

        cases = tuple(Case(problem, seed) for seed in range(self.seeds) for problem in self.problems)
        settings = Settings(self.steps, self.samples, self.batch, data_dir=self.data_dir)
        until = float("inf") if self.minutes is None else time.time() + 60 * self.minutes
        return Search(self.out, cases, settings, until, self.trials, self.seed)

    def groups(self, search: Search) -> list[Group]:
        """Seeds that the search has not seen on its problems, problems that it has not seen, and these for longer."""
        from ocnopt_lab.tuning.cases import Case
        from ocnopt_lab.tuning.told import Group

        seeds = range(self.seeds, self.seeds + self.check_seeds)
        fresh = tuple(Case(problem, seed) for seed in seeds for problem in self.problems)
        unseen = tuple(Case(problem, seed) for seed in seeds for problem in self.left_out)
        longer = tuple(Case(problem, self.seeds, self.stretch) for problem in self.left_out)
        return [
            Group("the problems of the search", fresh),
            Group("problems left out of the search", unseen),
            Group(f"problems left out of the search, {self.stretch} times the steps", longer),
        ]

    def report(self, console: Console) -> None:
        from ocnopt_lab.studies.study import show
        from ocnopt_lab.studies.summaries import machine
        from ocnopt_lab.tuning.told import Told

        search = self.search()
        told = Told(search, self.candidates, self.groups(search))
        folder.write_json(self.out / JSON, told.to_dict(self.command()))
        blocks = [f"```bash\n{self.command()}\n```", *told.sentences()]
        blocks += [machine(env) for env in [told.environment()] if env]
        blocks += [table.markdown() for table in told.tables()]
        with writing(self.out / MARKDOWN):
            (self.out / MARKDOWN).write_text("\n\n".join(blocks) + "\n")
        show(console, (self.out / MARKDOWN).read_text(), self.out / MARKDOWN)

    def command(self) -> str:
        """What to type to get these results; where they lie decides nothing."""
        known = Tune()
        given = {
            name: value
            for name, value in vars(self).items()
            if name not in ("out", "data_dir") and value != getattr(known, name)
        }
        return " ".join(["ocnopt", "tune", *words(given)])
