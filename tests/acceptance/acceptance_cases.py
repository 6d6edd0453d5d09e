"""Contenders and runs under the short names of these tests, which look closer than the checks of every optimizer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ocnopt_lab.acceptance import run
from ocnopt_lab.acceptance.contenders import FIXED, get
from ocnopt_lab.acceptance.problems import PROBLEMS, Problem, built, class_loss, normal
from ocnopt_lab.acceptance.run import Make, distance, same, snapshot, weights

__all__ = [
    "OPTIMIZERS", "PROBLEMS", "Make", "Problem", "Run", "built", "class_loss", "distance", "every_kind",
    "every_optimizer", "given_labels", "normal", "same", "snapshot", "weights",
]  # fmt: skip

NAMES = {
    **{name: name for name in ("adamw", "sgd", "rmsprop", "adam", "kfac", "ekfac")},
    "kfac-fixed": FIXED.name,
    "adam-coupled": "adam coupled",
    "ekfac-nonlinear": "ekfac nonlinear",
}

OPTIMIZERS: dict[str, Make] = {short: get(name).make for short, name in NAMES.items()}
"""The first is the control: whatever is asked of ours, it must pass."""

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)

every_kind = pytest.mark.parametrize("name", ["adamw", "adam", "kfac-fixed", "ekfac", "adam-coupled"])
"""The control, metrics with and without factors, with and without a search, and both values."""


class Run(run.Run):
    """A run of an optimizer by its short name."""

    def __init__(self, name: str, problem: str = "mlp", dtype: torch.dtype = torch.float64) -> None:
        super().__init__(OPTIMIZERS[name], problem, dtype)


def given_labels(run: Run) -> Run:
    """Without labels drawn from the model, which depend on how a batch is cut and cannot pass reentrant checkpoints."""
    curvature = getattr(run.optimizer, "curvature", None)
    if hasattr(curvature, "fisher"):
        run.optimizer.curvature = replace(curvature, fisher="given")
        run.optimizer.plan()
    return run
