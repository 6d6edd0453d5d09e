"""Optimizers as the command line names them, with one default per optimizer where nothing is given."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import nn, optim

from ocnopt import OCNOpt
from ocnopt_lab.errors import LabError

Name = Literal["ocnopt", "adam", "adamw", "sgd", "rmsprop"]
Schedule = Literal["constant", "linear"]

# What is used where the command line says nothing; every other default is the optimizer's own.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "ocnopt": {},
    "adam": {"lr": 1e-3},
    "adamw": {"lr": 1e-3},
    "sgd": {"lr": 0.05, "momentum": 0.9},
    "rmsprop": {"lr": 1e-3},
}
_CLASSES: dict[str, type[optim.Optimizer]] = {
    "adam": optim.Adam,
    "adamw": optim.AdamW,
    "sgd": optim.SGD,
    "rmsprop": optim.RMSprop,
}
_CONTROL = {"curvature", "terminal", "value", "rollout", "search", "feedback", "damping", "game", "alignment"}
_OPTIONS = {
    "ocnopt": _CONTROL | {"lr", "weight_decay", "momentum", "betas"},
    "adam": {"lr", "weight_decay", "betas"},
    "adamw": {"lr", "weight_decay", "betas"},
    "sgd": {"lr", "weight_decay", "momentum"},
    "rmsprop": {"lr", "weight_decay", "momentum"},
}


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its options; an option left out keeps the optimizer's own default."""

    name: Name = "ocnopt"
    """Which optimizer."""
    lr: float | None = None
    """Learning rate. Left out: 1e-3 for adam, adamw and rmsprop, 0.05 for sgd, ocnopt's own for ocnopt."""
    curvature: str | None = None
    """ocnopt: the metric (sgd, rmsprop, adam, kfac, ekfac)."""
    terminal: str | None = None
    """ocnopt: the terminal factor (auto, gradient, true-vs-rest, gauss-newton, fisher)."""
    value: str | None = None
    """ocnopt: the value function (per-sample, coupled, own-gains, robust)."""
    rollout: str | None = None
    """ocnopt: the forward pass of the policy (linear, nonlinear)."""
    search: str | None = None
    """ocnopt: how far to step (fixed, model; levenberg-marquardt and backtracking, which measure every step)."""
    feedback: float | None = None
    """ocnopt: strength of the feedback, 0 is the base optimizer and 1 the full policy."""
    damping: float | None = None
    """ocnopt: damping of the curvature."""
    game: str | None = None
    """ocnopt: of layers that share a stage (off, feedback-nash, cooperative, cooperative-product)."""
    alignment: str | None = None
    """ocnopt: where a shortcut's layers sit in their block (bandit, first, last, or a number from 0 on)."""
    weight_decay: float | None = None
    """Weight decay."""
    momentum: float | None = None
    """Momentum. Left out: 0.9 for sgd."""
    betas: tuple[float, float] | None = None
    """adam, adamw, ocnopt: decay rates of the moments."""

    @property
    def label(self) -> str:
        """A short name for folders, tables and legends: ocnopt-rmsprop, adam."""
        return "-".join(part for part in (self.name, self.curvature, self.game) if part)

    def given(self) -> dict[str, Any]:
        """The options that are not left out."""
        given = {key: value for key, value in asdict(self).items() if key != "name" and value is not None}
        if self.alignment is not None and self.alignment.isdecimal():
            given["alignment"] = int(self.alignment)
        return given

    def options(self) -> dict[str, Any]:
        """The given options over the defaults of this table."""
        given = self.given()
        if foreign := sorted(given.keys() - _OPTIONS[self.name]):
            raise LabError(f"The optimizer {self.name} has no option {', '.join(foreign)}; leave it out.")
        return _DEFAULTS[self.name] | given


def build(config: OptimizerConfig, model: nn.Module) -> optim.Optimizer:
    """The optimizer of `config` for all parameters of `model`."""
    options = config.options()
    try:
        if config.name == "ocnopt":
            return OCNOpt(model, **options)
        return _CLASSES[config.name](model.parameters(), **options)
    except ValueError as error:  # the optimizers' own sentence about a bad value
        raise LabError(f"{config.name}: {error}") from error


def build_schedule(kind: Schedule, optimizer: optim.Optimizer, steps: int) -> optim.lr_scheduler.LambdaLR:
    """A constant rate, or one that falls linearly and reaches zero after `steps` steps."""

    def factor(step: int) -> float:
        return 1.0 if kind == "constant" else max(0.0, 1.0 - step / steps)

    return optim.lr_scheduler.LambdaLR(optimizer, factor)
