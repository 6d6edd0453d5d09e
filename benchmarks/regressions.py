"""Regression and autoencoders: OCNOpt against Adam, L-BFGS and AdamW before L-BFGS, at equal seconds; resumable.

    python benchmarks/regressions.py --data-dir FOLDER --seconds 20 --write docs/results/regressions.md

All methods of a seed run on a problem before the next problem begins. What is finished is kept: the same command goes
on where it stopped. FOLDER holds uci_regression.npz; problems that need no file run without.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import tyro
from pages import insert
from regression_text import Curves, text_of, to_json
from rich.console import Console
from rich.markdown import Markdown
from timed_runs import read_marks, write_marks

from ocnopt_lab import problems
from ocnopt_lab.data.functions import FUNCTIONS
from ocnopt_lab.data.uci import NAMES
from ocnopt_lab.errors import LabError, exit_code, writing
from ocnopt_lab.runs.environment import describe
from ocnopt_lab.runs.folder import write_json
from ocnopt_lab.timed import Clock, Mark, train
from ocnopt_lab.timed.curves import draw_curves
from ocnopt_lab.timed.methods import ROWS, Method, adam, bold, ekfac, lbfgs, stochastic, then_lbfgs
from ocnopt_lab.timed.trial import trial

PROBLEMS = (
    *(f"function-{name}{suffix}" for suffix in ("", "-noisy") for name in FUNCTIONS),
    *(f"uci-{name}" for name in NAMES),
    *("autoencoder-digits", "autoencoder-mnist"),
)


@dataclass(frozen=True)
class Regressions:
    """Training losses and held-out errors after equal seconds, as tables and pictures."""

    problems: tuple[str, ...] = PROBLEMS
    """Problems, see `ocnopt problems`."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the split, of the initial weights and of the batches, the same for all methods."""
    seconds: float = 20.0
    """Training time of every run, in seconds of the processor, on one thread."""
    adam_lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Rates of Adam, and of AdamW before L-BFGS; each falls linearly to zero."""
    samples: int | None = None
    """Train on the first so many samples only. Left out: on all."""
    data_dir: Path | None = None
    """Folder with the data, as for `ocnopt train`."""
    out: Path = Path("runs/regressions")
    """Folder for the runs, the pictures, results.json and results.md."""
    write: Path | None = None
    """A page to put the tables into, between its markers for this script."""

    def run(self, console: Console) -> int:
        self.check()
        torch.set_num_threads(1)  # so that seconds of the processor are seconds
        for seed in self.seeds:
            for problem in self.problems:
                for method in self.methods(problem):
                    if not self.path(problem, method, seed).exists():
                        console.print(self.done(problem, method, seed), highlight=False, soft_wrap=True)
        self.report(console)
        return 0

    def check(self) -> None:
        """A sentence for what cannot be, before anything runs."""
        for name in self.problems:
            problems.get(name)
            if name not in PROBLEMS:
                raise LabError(f"{name} is no regression; choose from {', '.join(PROBLEMS)}.")
        if not self.seconds > 0:
            raise LabError(f"--seconds is {self.seconds:g}; it must be positive.")
        for path in self.out.glob("*-[0-9]*.json"):
            found = json.loads(path.read_text())
            if (found["budget"], found["samples"]) != (self.seconds, self.samples):
                raise LabError(f"{path} was run with other --seconds or --samples; choose another --out.")

    def methods(self, problem: str) -> dict[str, Method]:
        """By name, OCNOpt's first. Its coupled steps take all samples, where so many can be solved for."""
        whole = columns(problem, self.samples, self.data_dir) <= ROWS
        ours = {"ocnopt-coupled": bold} if whole else {"ocnopt-stochastic": stochastic}
        adams = {f"adam-{lr:g}": adam(lr) for lr in self.adam_lrs}
        mixed = {f"adamw-{lr:g}-lbfgs": then_lbfgs(lr, torch.optim.AdamW) for lr in self.adam_lrs}
        return {**ours, "ocnopt-default": ekfac, **adams, "lbfgs": lbfgs, **mixed}

    def path(self, problem: str, method: str, seed: int) -> Path:
        return self.out / f"{problem}-{method}-{seed}.json"

    def done(self, problem: str, method: str, seed: int) -> str:
        """One run, and what it has come to. Its file is written last, which says that it is complete."""
        one, clock = trial(problem, seed, self.samples, self.data_dir), Clock(self.seconds)
        steps = self.methods(problem)[method](one.fit, clock)
        marks = train(steps, clock, one.measure)
        path = self.path(problem, method, seed)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_marks(path, {"budget": self.seconds, "samples": self.samples}, marks)
        last = marks[-1]
        return f"{problem} {method} {seed}: loss {last.loss:.3e}, error {last.error:.4g}, {last.steps} steps"

    # what came of it

    def report(self, console: Console) -> None:
        """Tables and pictures of what is there."""
        found = {problem: self.curves(problem) for problem in self.problems}
        text = text_of(found, self.command(), self.seconds, describe())
        write_json(self.out / "results.json", to_json(found, self.command()))
        with writing(self.out / "results.md"):
            (self.out / "results.md").write_text(text)
        for problem, curves in found.items():
            first = {method: marks[0] for method, marks in curves.items()}
            draw_curves(self.out / f"{problem}.png", f"{problem}, seed {self.seeds[0]}", first, "loss")
        if self.write:
            insert(self.write, "regressions", text)
        console.print(Markdown(text))

    def curves(self, problem: str) -> Curves:
        """Marks of every method, seed by seed."""
        names = self.methods(problem)
        return {name: [self.marks(problem, name, seed) for seed in self.seeds] for name in names}

    def marks(self, problem: str, method: str, seed: int) -> list[Mark]:
        return read_marks(self.path(problem, method, seed))

    def command(self) -> str:
        """What to type to get these results."""
        words = [f"python benchmarks/regressions.py --seconds {self.seconds:g}"]
        words += [] if self.problems == PROBLEMS else ["--problems", *self.problems]
        words += [] if self.seeds == Regressions.seeds else ["--seeds", *map(str, self.seeds)]
        words += [] if self.adam_lrs == Regressions.adam_lrs else ["--adam-lrs", *(f"{lr:g}" for lr in self.adam_lrs)]
        words += [] if self.samples is None else ["--samples", str(self.samples)]
        return " ".join(words)


@cache
def columns(problem: str, samples: int | None, data_dir: Path | None) -> int:
    """Training samples times outputs."""
    return trial(problem, 0, samples, data_dir).fit.targets.numel()


if __name__ == "__main__":
    onward = "interrupted; the same command goes on from here."
    sys.exit(exit_code("regressions", lambda: tyro.cli(Regressions, description=__doc__).run(Console()), onward))
