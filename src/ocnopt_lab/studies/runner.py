"""Runs `ocnopt train` many times over, a few processes at once; finished runs are never done again."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ocnopt_lab import data, problems
from ocnopt_lab.errors import FAILED, INTERRUPTED, LabError, writing
from ocnopt_lab.runs import checkpoint, folder, session
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.interrupt import Interrupt

_POLL = 0.3  # seconds
_ONWARD = "Interrupted; the same command goes on from here."


@dataclass(frozen=True)
class Run:
    """One training run of a study: its place in the study, and all that decides its numbers.

    rate: the learning rate, where the study sweeps it.  knob: the value of whatever else the study varies.
    """

    method: str
    config: RunConfig
    path: Path
    rate: float | None = None
    knob: float | str | None = None

    @property
    def problem(self) -> str:
        return self.config.problem

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def log(self) -> Path:
        """What the run printed, next to its folder."""
        return self.path.with_name(self.path.name + ".log")

    def summary(self) -> dict[str, Any] | None:
        """The summary of a complete run."""
        try:
            return json.loads((self.path / folder.SUMMARY).read_text())
        except (OSError, ValueError):
            return None

    def fraction(self) -> float:
        """How much of the run is done, by its metrics file."""
        try:
            last = json.loads((self.path / folder.METRICS).read_text().splitlines()[-1])
            return max(last["epoch"] / self.config.epochs, last["seconds"] / (self.config.seconds or math.inf))
        except (OSError, ValueError, IndexError, KeyError):
            return 0.0

    def command(self) -> list[str]:
        """`ocnopt train`, from the checkpoint where there is one."""
        start = [sys.executable, "-m", "ocnopt_lab", "train", "--quiet"]
        if checkpoint.newest(self.path):
            return [*start, "--resume", str(self.path)]
        return [*start, *self.config.arguments(), "--out", str(self.path)]

    def launch(self) -> subprocess.Popen[bytes]:
        """Starts the process."""
        self.clear()
        with writing(self.log):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as log:
                return subprocess.Popen(self.command(), stdout=log, stderr=log)

    def opened(self, load: session.Load) -> session.Session:
        """The same in this process."""
        self.clear()
        if checkpoint.newest(self.path):
            return session.resume(self.path, Console(quiet=True), load)
        return session.start(self.config, self.path, load)

    def clear(self) -> None:
        """A folder without a checkpoint holds nothing to go on with and is made anew."""
        if (self.path / folder.CONFIG).exists() and not checkpoint.newest(self.path):
            shutil.rmtree(self.path)

    def last_words(self) -> str:
        """The last line that the run printed."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "it printed nothing"


@dataclass
class Estimate:
    """Seconds left, from the runs that have finished and those that are under way."""

    jobs: int
    spent: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def finished(self, run: Run, seconds: float) -> None:
        """Notes what a whole run took."""
        self.spent.setdefault((run.problem, run.method), []).append(seconds)

    def left(self, waiting: Iterable[Run], running: dict[Run, float]) -> float | None:
        """None as long as nothing is known; `running` maps runs to the seconds since their start."""
        parts = {run: run.fraction() for run in running}
        live = {run: seconds / parts[run] for run, seconds in running.items() if parts[run] > 0.05}
        rest = [self._whole(run, live) for run in waiting]
        rest += [whole and whole * (1 - parts[run]) for run in running for whole in [self._whole(run, live)]]
        known = [seconds for seconds in rest if seconds is not None]
        return len(rest) / len(known) * sum(known) / self.jobs if known else None

    def _whole(self, run: Run, live: dict[Run, float]) -> float | None:
        """Of the same problem and method, else of the same problem, else of any run."""
        done = [(key, seconds) for key, times in self.spent.items() for seconds in times]
        done += [((other.problem, other.method), seconds) for other, seconds in live.items()]
        for same in (2, 1, 0):
            key = (run.problem, run.method)[:same]
            if found := [seconds for other, seconds in done if other[:same] == key]:
                return statistics.median(found)
        return None


def run_all(console: Console, runs: Sequence[Run], jobs: int) -> None:
    """Does what is not done yet, in order, `jobs` processes at once, or in this one where that is 0.

    Ctrl-C reaches the running processes too: each leaves a checkpoint.

    Raises LabError after Ctrl-C, and where runs failed, once all others are done.
    """
    with Interrupt() as interrupt, _progress(console) as bar:
        kind = Queue if jobs else Here
        failed = kind(runs, Estimate(max(1, jobs)), bar, interrupt).work()
    if interrupt.seen:
        raise LabError(_ONWARD, INTERRUPTED)
    if failed:
        sentences = dict.fromkeys(run.last_words() for run in failed)  # the same for all of them, as a rule
        raise LabError(f"{len(failed)} of {len(runs)} runs failed. {' '.join(sentences)}", FAILED)


class Waiting:
    """Runs that are not done yet, and the bar that tells of them."""

    def __init__(self, runs: Sequence[Run], estimate: Estimate, bar: Progress, interrupt: Interrupt) -> None:
        self.waiting = [run for run in runs if run.summary() is None]
        self.failed: list[Run] = []
        self.estimate, self.bar, self.interrupt = estimate, bar, interrupt
        self.task = bar.add_task("runs", total=len(runs), completed=len(runs) - len(self.waiting), state="")

    def work(self) -> list[Run]:
        """Until nothing is left to do, or Ctrl-C; the runs that left no summary."""
        raise NotImplementedError

    def ended(self, run: Run, seconds: float) -> None:
        """Takes note of a run that has ended after so many seconds."""
        summary = run.summary()
        if summary is None:
            self.failed.append(run)
        else:
            self.estimate.finished(run, seconds)
        self.bar.console.print(_line(run, summary), soft_wrap=True, highlight=False)
        self.bar.advance(self.task)

    def tell(self, running: dict[Run, float]) -> None:
        """running: seconds since the start of each."""
        self.bar.update(self.task, state=_state(self.estimate.left(self.waiting, running), running))


class Here(Waiting):
    """One run after another in this process, without pictures of single runs; data are read once."""

    def work(self) -> list[Run]:
        load, quiet = cache(data.load), Console(quiet=True)
        while self.waiting and not self.interrupt.seen:
            run = self.waiting.pop(0)
            self.tell({run: 0.0})
            started = time.monotonic()
            try:
                run.opened(load).train(quiet)
            except LabError as error:
                if error.code == INTERRUPTED:
                    raise LabError(_ONWARD, INTERRUPTED) from error
                with writing(run.log):
                    run.log.parent.mkdir(parents=True, exist_ok=True)
                    run.log.write_text(f"{error}\n")
            self.ended(run, time.monotonic() - started)
        return self.failed


class Queue(Waiting):
    """A few processes at once, with the second when each was started."""

    def __init__(self, runs: Sequence[Run], estimate: Estimate, bar: Progress, interrupt: Interrupt) -> None:
        super().__init__(runs, estimate, bar, interrupt)
        self.running: dict[Run, tuple[subprocess.Popen[bytes], float]] = {}

    def work(self) -> list[Run]:
        while self.running or (self.waiting and not self.interrupt.seen):
            self.fill()
            time.sleep(_POLL)
            self.collect()
            self.tell({run: time.monotonic() - started for run, (_, started) in self.running.items()})
        return self.failed

    def fill(self) -> None:
        """Starts as many runs as may go on at once; none after Ctrl-C."""
        while self.waiting and len(self.running) < self.estimate.jobs and not self.interrupt.seen:
            run = self.waiting.pop(0)
            self.running[run] = (run.launch(), time.monotonic())

    def collect(self) -> None:
        """Takes note of the processes that have ended."""
        for run in [run for run, (process, _) in self.running.items() if process.poll() is not None]:
            _, started = self.running.pop(run)
            self.ended(run, time.monotonic() - started)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TextColumn("{task.fields[state]}"), console=console, disable=not console.is_terminal)


def _line(run: Run, summary: dict[str, Any] | None) -> str:
    if summary is None:
        return f"{run.path.name}: no summary, see {run.log}"
    loss = "not finite" if summary["train_loss"] is None else f"{summary['train_loss']:.4g}"
    measure = problems.get(run.problem).task.measure
    score = f"{measure.label} {measure.text(summary[measure.column])}"
    return f"{run.path.name}: loss {loss}, {score}, {summary['seconds']:.0f} s"


def _state(left: float | None, running: Iterable[Run]) -> str:
    remaining = "time left unknown" if left is None else f"about {left / 60:.0f} min left"
    return f"{remaining}  {', '.join(run.path.name for run in running)}"
