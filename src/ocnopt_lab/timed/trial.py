"""A problem of the command line as something to fit: training, validation and test samples, and what is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ocnopt_lab import problems
from ocnopt_lab.data import load
from ocnopt_lab.data.dataset import Dataset
from ocnopt_lab.tasks import Task

from .clock import Measured
from .fit import Fit

VALIDATION = 0.1
"""Share of the training samples that nobody trains on."""
LOOKED_AT = 5000
"""Samples of each part that are measured, at the most."""
ONE_SPLIT = ("digits", "mnist", "fashion_mnist")


class Part(NamedTuple):
    x: Tensor
    y: Tensor

    def at(self, rows: Tensor | slice) -> Part:
        return Part(self.x[rows], self.y[rows])


@dataclass(frozen=True, eq=False)
class Trial:
    """A model with initial weights of the seed, on a split of the seed where there are several."""

    fit: Fit
    task: Task
    validation: Part
    test: Part

    def measure(self) -> Measured:
        """Training loss, test score and validation loss; the model is left as it was."""
        train = Part(self.fit.inputs[0], self.fit.targets)
        (loss, _), (_, score), (held, _) = (self.scored(part) for part in (train, self.test, self.validation))
        return Measured(loss, score, held)

    @torch.no_grad()
    def scored(self, part: Part) -> tuple[float, float]:
        """Loss and score of the first samples."""
        model, (x, y) = self.fit.model, part.at(slice(LOOKED_AT))
        training = model.training
        output = model.eval()(x)
        model.train(training)
        loss = self.fit.loss(output, y).item()
        return loss, self.task.scores(loss, self.task.counted(output, y) / len(x))[self.task.measure.key]


def trial(name: str, seed: int, samples: int | None = None, data_dir: Path | None = None) -> Trial:
    """samples: the first so many of the training samples, None for all."""
    problem = problems.get(name)
    split = 0 if problem.data in ONE_SPLIT else seed
    data = load(problem.data, None, data_dir, split, problem.recipe).first(samples)
    dtype = precision_of(name)
    train, validation = divided(Part(data.x_train.to(dtype), data.y_train.to(dtype)), seed)
    torch.manual_seed(seed)
    model = problem.model(data.in_shape, data.outputs).to(dtype)
    fit = Fit(model, (train.x,), train.y, data.task.loss, problem.batch_size, seed)
    return Trial(fit, data.task, validation, tested_on(data, dtype))


def precision_of(name: str) -> torch.dtype:
    """Double where small losses are meant to be seen."""
    return torch.float32 if name.startswith("autoencoder") else torch.float64


def divided(part: Part, seed: int) -> tuple[Part, Part]:
    """Training and validation samples, drawn by the seed."""
    order = torch.randperm(len(part.x), generator=torch.Generator().manual_seed(seed))
    held = max(1, round(VALIDATION * len(order)))
    return part.at(order[held:]), part.at(order[:held])


def tested_on(data: Dataset, dtype: torch.dtype) -> Part:
    return Part(data.x_test.to(dtype), data.y_test.to(dtype))
