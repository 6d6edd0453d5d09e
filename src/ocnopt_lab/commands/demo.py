"""`ocnopt demo`: OCNOpt next to its rivals on scikit-learn's digits."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ocnopt_lab import problems
from ocnopt_lab.errors import FAILED, INTERRUPTED, LabError
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.runs import curves, folder
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.folder import Row
from ocnopt_lab.runs.interrupt import Interrupt
from ocnopt_lab.runs.report import table

_PROBLEM = "digits-fcn"
_EPOCHS, _QUICK_EPOCHS = 30, 3
_CONTENDERS = {
    "OCNOpt (EKFAC)": OptimizerConfig("ocnopt"),
    "OCNOpt (RMSprop)": OptimizerConfig("ocnopt", curvature="rmsprop", search="fixed", lr=1e-3),
    "SGD, momentum": OptimizerConfig("sgd"),
    "RMSprop": OptimizerConfig("rmsprop"),
    "Adam": OptimizerConfig("adam"),
}


@dataclass(frozen=True)
class Demo:
    """Train a 5-layer tanh network on digits with OCNOpt, SGD, RMSprop and Adam, and compare."""

    quick: bool = False
    """Three epochs only."""
    seed: int = 0
    """Seed of the initial weights and of the batch order, the same for all."""
    out: Path | None = None
    """Folder for the runs. Left out: runs/demo-<time>."""

    def run(self, console: Console) -> int:
        """Trains each contender in its own process, so that the peak memory is its own."""
        out = self.out or folder.timed("demo")
        epochs = _QUICK_EPOCHS if self.quick else _EPOCHS
        console.print(f"[bold]{_PROBLEM}[/bold]: {len(_CONTENDERS)} optimizers, {epochs} epochs each, one thread")
        with Interrupt() as interrupt:
            for config in _CONTENDERS.values():
                self._train(config, out, epochs, interrupt)
        self._report(console, out)
        return 0

    def _train(self, config: OptimizerConfig, out: Path, epochs: int, interrupt: Interrupt) -> None:
        """One contender in a child process that shares this terminal and gets the same Ctrl-C."""
        path = out / config.label
        code = subprocess.run([*self._command(config, epochs), "--out", str(path)], check=False).returncode
        if interrupt.seen:
            raise LabError("The demo was interrupted.", INTERRUPTED)
        if not (path / folder.SUMMARY).exists():  # a run that diverged fails too, but has its place in the table
            raise LabError(f"The run {config.label} ended with exit code {code}.", FAILED)

    def _command(self, config: OptimizerConfig, epochs: int) -> list[str]:
        problem = problems.get(_PROBLEM)
        run = RunConfig(_PROBLEM, epochs, problem.batch_size, config, seed=self.seed, threads=1)
        return [sys.executable, "-m", "ocnopt_lab", "train", *run.arguments(), "--quiet"]

    def _report(self, console: Console, out: Path) -> None:
        paths = [out / config.label for config in _CONTENDERS.values()]
        task = problems.get(_PROBLEM).task
        summaries: list[Row] = [json.loads((path / folder.SUMMARY).read_text()) for path in paths]
        curves.draw(out / folder.CURVES, f"5-layer tanh network on digits, seed {self.seed}", _curves(paths), task)
        console.print(table(f"{_PROBLEM}, seed {self.seed}", task.measure, summaries, list(_CONTENDERS)))
        console.print(f"Curves: {out / folder.CURVES}", soft_wrap=True, highlight=False)
        console.print(f"Run folder: {out}", soft_wrap=True, highlight=False)


def _curves(paths: list[Path]) -> list[curves.Curve]:
    result = []
    for (name, config), path in zip(_CONTENDERS.items(), paths, strict=True):
        rows = [row for row in folder.read_rows(path / folder.METRICS) if row["kind"] == "epoch"]
        result.append(curves.Curve(name, config.label, rows))
    return result
