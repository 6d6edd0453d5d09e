"""`ocnopt train`: one run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from ocnopt_lab import problems
from ocnopt_lab.errors import FAILED, LabError
from ocnopt_lab.optimizers import OptimizerConfig, Schedule
from ocnopt_lab.runs import folder, session
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.folder import Row
from ocnopt_lab.runs.report import table


@dataclass(frozen=True)
class Train:
    """Train a problem (see `ocnopt problems`) and leave a run folder behind."""

    problem: Positional[Annotated[str | None, arg(metavar="PROBLEM")]] = None
    """Name of the problem."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    epochs: int | None = None
    """Passes over the training set. Left out: the problem's own number."""
    seconds: float | None = None
    """End after so many seconds in training steps, if not all epochs are done by then; a falling rate falls in time."""
    batch_size: int | None = None
    """Samples per step. Left out: the problem's own number."""
    seed: int = 0
    """Seed of the initial weights and of the batch order."""
    schedule: Schedule = "linear"
    """Learning rate over the steps: constant, or falling linearly to zero."""
    out: Path | None = None
    """Run folder. Left out: runs/<problem>-<optimizer>-<seed>-<time>."""
    data: Path | None = None
    """Your own arrays: an npz file with x_train, y_train, x_test, y_test."""
    split: int = 0
    """Number of a published split, or seed of data that are made or split on the spot; see the page on data."""
    data_dir: Path | None = None
    """Folder with mnist.npz, uci_regression.npz and the like. Left out: OCNOPT_DATA, then the download cache."""
    threads: int | None = None
    """Threads of torch. Left out: torch's own choice."""
    device: str = "cpu"
    """Where to train: cpu, cuda, cuda:1 and the like. Initial weights and batches are the same everywhere."""
    eval_samples: int | None = None
    """Evaluate on this many samples only. Left out: on all."""
    train_samples: int | None = None
    """Train on the first so many samples only. Left out: on all."""
    gains: int | None = None
    """ocnopt: measure the gain of every layer's policy after each epoch, on the first so many training samples."""
    resume: Path | None = None
    """Go on with the run in this folder, with the options it was started with."""
    quiet: bool = False
    """Show the progress only, not the closing table."""

    def run(self, console: Console) -> int:
        """Trains and prints where everything is."""
        run = self._resume(self.resume, console) if self.resume else self._start()
        summary = run.run(console)
        if not self.quiet:
            self._close(console, run.path, summary)
        return self._exit_code(summary)

    def _start(self) -> session.Session:
        config = self._config()
        return session.start(config, self.out or folder.default_path(config))

    def _resume(self, path: Path, console: Console) -> session.Session:
        if replace(self, resume=None, quiet=False) != Train():
            raise LabError("--resume goes on with the options the run was started with; leave out all others.")
        return session.resume(path, console)

    def _config(self) -> RunConfig:
        if self.problem is None:
            raise LabError(f"Which problem? Choose one of {', '.join(problems.PROBLEMS)}.")
        problem = problems.get(self.problem)
        return RunConfig(
            problem=problem.name,
            epochs=problem.epochs if self.epochs is None else self.epochs,
            batch_size=problem.batch_size if self.batch_size is None else self.batch_size,
            optimizer=self.optimizer,
            seed=self.seed,
            schedule=self.schedule,
            data=_absolute(self.data),
            data_dir=_absolute(self.data_dir),
            threads=self.threads,
            split=self.split,
            gains=self.gains,
            seconds=self.seconds,
            device=self.device,
            eval_samples=self.eval_samples,
            train_samples=problem.train_samples if self.train_samples is None else self.train_samples,
        )

    def _close(self, console: Console, path: Path, summary: Row) -> None:
        measure = problems.get(summary["problem"]).task.measure
        console.print(table(f"{summary['problem']}, seed {summary['seed']}", measure, [summary]))
        console.print(f"Curves: {path / folder.CURVES}", soft_wrap=True, highlight=False)
        console.print(f"Run folder: {path}", soft_wrap=True, highlight=False)

    def _exit_code(self, summary: Row) -> int:
        if summary["status"] == "finished":
            return 0
        raise LabError(
            "The loss stayed not finite: the run has diverged and was stopped; try a lower --optimizer.lr.", FAILED
        )


def _absolute(path: Path | None) -> str | None:
    """A resumed run must find its data from any working directory."""
    return str(path.resolve()) if path else None
