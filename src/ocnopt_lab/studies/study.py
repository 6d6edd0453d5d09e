"""What all studies share: data, budget and machine of the runs, and the way from a plan to the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.markdown import Markdown
from torch import nn

from ocnopt_lab import problems
from ocnopt_lab.errors import LabError
from ocnopt_lab.optimizers import OptimizerConfig, build
from ocnopt_lab.runs import folder
from ocnopt_lab.runs.config import RunConfig, words
from ocnopt_lab.runs.device import require_device
from ocnopt_lab.studies.runner import Run, run_all


@dataclass(frozen=True, kw_only=True)
class Study:
    """A subclass says which runs there are, and writes what came of them."""

    epochs: int | None = None
    """Epochs of every run. Left out: those of the problem."""
    seconds: float | None = None
    """End each run after so many seconds in training steps, if its epochs are not done by then."""
    batch_size: int | None = None
    """Samples per step. Left out: the problem's own number."""
    jobs: int = 1
    """Runs at the same time. More than one makes the seconds of all of them less exact. 0: one after another in this
    process, which starts small runs at once; only the first run's peak memory is its own then."""
    threads: int = 1
    """Threads of torch in every run."""
    device: str = "cpu"
    """Where every run trains: cpu, cuda, cuda:1 and the like."""
    eval_samples: int | None = None
    """Score on this many samples of each set only. Left out: on all."""
    train_samples: int | None = None
    """Train on the first so many samples only. Left out: on all."""
    data_dir: Path | None = None
    """Folder with the data, as for `ocnopt train`."""

    UNTOLD: ClassVar[tuple[str, ...]] = ("out", "data_dir")
    """Options that decide no number."""

    @property
    def folder(self) -> Path:
        """For the runs and the results."""
        raise NotImplementedError

    def plan(self) -> list[Run]:
        """All runs in the order they are done in."""
        raise NotImplementedError

    def report(self, console: Console, runs: Sequence[Run]) -> None:
        """Writes and shows what can be said of the runs that are complete."""
        raise NotImplementedError

    def run(self, console: Console) -> int:
        """Runs what is missing, then writes the results of all that is there."""
        runs = self.plan()
        self.check(runs)
        try:
            run_all(console, runs, self.jobs)
        finally:
            self.report(console, runs)
        return 0

    def check(self, runs: Sequence[Run]) -> None:
        """A sentence for what cannot be, before the first run starts."""
        if self.jobs < 0:
            raise LabError(f"--jobs is {self.jobs}; it must be 0, for this process alone, or more.")
        require_device(self.device)
        for optimizer in dict.fromkeys(run.config.optimizer for run in runs):
            build(optimizer, nn.Linear(2, 2))
        for run in runs:
            if (run.path / folder.CONFIG).exists() and folder.read_config(run.path) != run.config:
                raise LabError(f"{run.path} was run with other options; choose another --out, or delete it.")

    def config(self, problem: str, optimizer: OptimizerConfig, seed: int) -> RunConfig:
        """Of one run; the learning rate falls linearly to zero."""
        found = problems.get(problem)
        return RunConfig(
            problem=found.name,
            epochs=found.epochs if self.epochs is None else self.epochs,
            batch_size=found.batch_size if self.batch_size is None else self.batch_size,
            optimizer=optimizer,
            seed=seed,
            data_dir=str(self.data_dir.resolve()) if self.data_dir else None,
            threads=self.threads,
            eval_samples=self.eval_samples,
            seconds=self.seconds,
            device=self.device,
            train_samples=found.train_samples if self.train_samples is None else self.train_samples,
        )

    def options(self) -> list[str]:
        """As typed: those that decide numbers and differ from their defaults."""
        named = [option for option in fields(self) if option.name not in self.UNTOLD]
        given = {x.name: getattr(self, x.name) for x in named if getattr(self, x.name) != _default(x)}
        return words({name: _plain(value) for name, value in given.items()})


def show(console: Console, text: str, path: Path) -> None:
    """The tables of a study, and where they are."""
    console.print(Markdown(text))
    console.print(f"Results: {path}", soft_wrap=True, highlight=False)


def _default(option: Field[Any]) -> Any:
    return option.default if option.default_factory is MISSING else option.default_factory()


def _plain(value: Any) -> Any:
    """1e-2 as 0.01, also in tuples."""
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return f"{value:g}" if type(value) is float else value
