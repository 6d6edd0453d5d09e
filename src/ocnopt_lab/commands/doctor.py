"""`ocnopt doctor`: what OCNOpt would do with a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from ocnopt_lab.doctor import advice, report, targets, trial
from ocnopt_lab.doctor.examination import examine

Curvature = Literal["ekfac", "kfac", "adam", "rmsprop", "sgd"]
Dtype = Literal["float32", "float64", "bfloat16", "float16", "int64", "int32"]


@dataclass(frozen=True)
class Doctor:
    """Say which layers of a model have which player, what they will cost and keep, and what to expect."""

    target: Positional[Annotated[str, arg(metavar="TARGET")]]
    """file.py:attribute, package.module:attribute, file.py with one model in it, or a problem. The attribute is an
    nn.Module, its class, or a function without arguments that makes one."""
    curvature: Curvature = "ekfac"
    """The metric."""
    input_shape: str | None = None
    """Shape of an input, batch first, as in 32,784: take a few steps on random numbers, too."""
    input_dtype: Dtype | None = None
    """Of the random input. Left out: that of the parameters. Integers are indices for embeddings."""
    data_dir: Path | None = None
    """Folder with the data of a problem, as for `ocnopt train`."""

    def run(self, console: Console) -> int:
        """Examines, and prints a table and what to expect."""
        shape = None if self.input_shape is None else trial.shape_of(self.input_shape)
        target = targets.find(self.target, self.data_dir)
        layers = examine(target.model, self.curvature)
        console.print(report.layers_table(f"{target.name} with curvature={self.curvature}", layers))
        told = advice.expectations(target.model, layers, self.curvature)
        report.sentences(console, "What to expect", told)
        if shape is not None:
            tried = trial.attempt(target.model, shape, self.input_dtype, self.curvature)
            title = f"{trial.STEPS} steps on random input of shape {shape}"
            report.sentences(console, title, report.trial_lines(layers, tried))
        return 0
