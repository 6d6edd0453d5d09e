"""On what it is measured: a problem and a seed, trained for a number of steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ocnopt_lab import data, problems
from ocnopt_lab.data import Dataset
from ocnopt_lab.runs.evaluate import evaluate
from ocnopt_lab.tasks import Task
from ocnopt_lab.tasks.base import Scores
from ocnopt_lab.timed import Clock
from ocnopt_lab.timed.fit import Fit
from ocnopt_lab.timed.methods import Method

LOOKED_AT = 2000
"""Samples of each set that losses and scores are over, at the most."""


@dataclass(frozen=True)
class Case:
    """stretch: how many times the steps of the search."""

    problem: str
    seed: int
    stretch: int = 1

    @property
    def name(self) -> str:
        return f"{self.problem}-{self.seed}" + (f"-x{self.stretch}" if self.stretch > 1 else "")


@dataclass(frozen=True)
class Settings:
    """steps: of each run.  samples: trained on, at the most.  batch: samples of a step, at the most.
    lrs: of Adam, whose best is the reference."""

    steps: int = 150
    samples: int = 4000
    batch: int = 32
    lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    data_dir: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """Training loss and test score in the end, infinite and the worst where the run diverged.

    seconds: of the processor, median over the steps.
    """

    loss: float
    score: float
    seconds: float


class Turns(Clock):
    """A clock that counts steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(math.inf)
        self.steps, self.taken = steps, list[float]()

    @property
    def share(self) -> float:
        return len(self.taken) / self.steps

    def stop(self) -> None:
        before = self.spent
        super().stop()
        self.taken.append(self.spent - before)


def outcome(case: Case, method: Method, settings: Settings) -> Outcome:
    """One run from the initial weights of the seed, the batches in the order of the seed."""
    task, fit, held_out = prepared(case, settings)
    clock = Turns(settings.steps * case.stretch)
    moves = method(fit, clock)
    for _ in range(clock.steps):
        clock.start()
        next(moves)
        clock.stop()
    trained = scored(task, fit, fit.inputs[0], fit.targets)
    tested = scored(task, fit, *held_out)[task.measure.key]
    loss = trained["loss"]
    finite = math.isfinite(loss) and math.isfinite(tested)
    return Outcome(loss if finite else math.inf, tested if finite else task.measure.worst, median(clock.taken))


def prepared(case: Case, settings: Settings) -> tuple[Task, Fit, tuple[Tensor, Tensor]]:
    """The task, what is to be fitted, and test samples."""
    problem, found = problems.get(case.problem), dataset(case.problem, settings.data_dir).first(settings.samples)
    torch.manual_seed(case.seed)
    model = problem.model(found.in_shape, found.outputs)
    batch = min(problem.batch_size, settings.batch)
    fit = Fit(model, (found.x_train,), found.y_train, found.task.loss, batch, case.seed)
    return found.task, fit, (found.x_test[:LOOKED_AT], found.y_test[:LOOKED_AT])


@cache
def dataset(problem: str, data_dir: Path | None) -> Dataset:
    """Read once by each process; of large sets a part, so that many processes have room."""
    found = problems.get(problem)
    whole = data.load(found.data, None, data_dir, 0, found.recipe)
    return replace(whole.first(_MOST), x_test=whole.x_test[:_MOST].clone(), y_test=whole.y_test[:_MOST].clone())


_MOST = 20_000


def scored(task: Task, fit: Fit, x: Tensor, y: Tensor) -> Scores:
    return evaluate(fit.model, task, x[:LOOKED_AT], y[:LOOKED_AT])
