"""A study: methods × problems × seeds, each run `ocnopt train` in a process of its own; resumable, put into a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import tyro
from pages import insert
from rich.console import Console
from rich.markdown import Markdown
from runner import Run, run_all
from tables import Result, results_of, to_json

from ocnopt_lab import problems
from ocnopt_lab.errors import LabError, exit_code, writing
from ocnopt_lab.runs import folder

_NOT_IN_COMMAND = {"out", "data_dir", "write"}


@dataclass(frozen=True)
class Study:
    """What all studies share; a study names its script, its section on a page, its methods and its tables."""

    SCRIPT = ""
    SECTION = ""

    problems: tuple[str, ...] = ()
    """Problems, see `ocnopt problems`."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the initial weights and of the batch order, the same for all methods."""
    adam_lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Learning rates of Adam; each falls linearly to zero."""
    epochs: int | None = None
    """Epochs of every run. Left out: those of the problem."""
    jobs: int = 1
    """Runs at the same time. More than one makes the seconds of all of them less exact."""
    threads: int = 1
    """Threads of torch in every run."""
    eval_samples: int | None = None
    """Score on this many samples of each set only. Left out: on all."""
    train_samples: int | None = None
    """Train on the first so many samples only. Left out: on all."""
    out: Path = Path("runs")
    """Folder for the runs, results.json and results.md."""
    data_dir: Path | None = None
    """Folder with the data, as for `ocnopt train`."""
    write: Path | None = None
    """A page to put the tables into, between its markers for this study."""

    def methods(self) -> dict[str, tuple[str, ...]]:
        """Name of each method and the options of `ocnopt train` it is run with."""
        return {f"adam-{lr:g}": ("--optimizer.name", "adam", "--optimizer.lr", repr(lr)) for lr in self.adam_lrs}

    def text(self, results: Sequence[Result], runs: Sequence[Run]) -> str:
        """Tables and sentences as Markdown."""
        raise NotImplementedError

    def run(self, console: Console) -> int:
        """Runs what is missing, then writes the results of all that is there."""
        runs = self.plan()
        self.check(runs)
        try:
            run_all(console, runs, self.jobs)
        finally:
            self.report(console, runs)
        if self.write:
            insert(self.write, self.SECTION, (self.out / "results.md").read_text())
        return 0

    def plan(self) -> list[Run]:
        """All runs in the order they are done in."""
        common = ("--threads", str(self.threads), "--schedule", "linear")
        if self.data_dir:
            common += ("--data-dir", str(self.data_dir))
        for name in ("eval_samples", "train_samples"):
            if (samples := getattr(self, name)) is not None:
                common += (f"--{name.replace('_', '-')}", str(samples))
        return [
            self.one(problem, method, seed, (*options, *common))
            for seed in self.seeds
            for problem in self.problems
            for method, options in self.methods().items()
        ]

    def one(self, problem: str, method: str, seed: int, options: tuple[str, ...]) -> Run:
        """A run of as many epochs as it should have."""
        epochs = self.epochs or problems.get(problem).epochs
        path = self.out / f"{problem}-{method}-{seed}"
        return Run(problem, method, seed, path, (*options, "--epochs", str(epochs)), epochs)

    def check(self, runs: list[Run]) -> None:
        """A sentence for what cannot be, before the first run starts."""
        for name in self.problems:
            problems.get(name)
        if min(self.jobs, self.threads, 1 if self.epochs is None else self.epochs) < 1:
            raise LabError("--jobs, --epochs and --threads must be at least 1.")
        for run in runs:
            if (run.path / folder.CONFIG).exists():
                found = folder.read_config(run.path)
                if (found.epochs, found.threads) != (run.epochs, self.threads):
                    raise LabError(f"{run.path} was run with other --epochs or --threads; choose another --out.")

    def report(self, console: Console, runs: list[Run]) -> None:
        """Writes results.json and results.md from the runs that are complete, and shows the tables."""
        results = results_of(runs)
        if not results:
            return
        text = self.text(results, runs)
        folder.write_json(self.out / "results.json", to_json(results, len(self.seeds), self.command()))
        with writing(self.out / "results.md"):
            (self.out / "results.md").write_text(text)
        console.print(Markdown(text))
        console.print(f"Results: {self.out / 'results.md'}", soft_wrap=True, highlight=False)

    def command(self) -> str:
        """What to type to get these results: the options that decide numbers and differ from the defaults."""
        words = [f"python benchmarks/{self.SCRIPT}.py"]
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name not in _NOT_IN_COMMAND and value != option.default:
                values = value if isinstance(value, tuple) else (value,)
                words += [
                    f"--{option.name.replace('_', '-')}",
                    *(f"{x:g}" if type(x) is float else f"{x}" for x in values),
                ]
        return " ".join(words)

    @classmethod
    def main(cls, description: str) -> int:
        """The exit code."""
        return exit_code(cls.SCRIPT, lambda: tyro.cli(cls, description=description).run(Console()))
