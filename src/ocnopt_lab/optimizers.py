"""Optimizers as the command line names them, with one default per optimizer where nothing is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from torch import nn, optim
from tyro.conf import arg
from tyro.extras import literal_type_from_choices

from ocnopt import OCNOpt
from ocnopt.core.terminal import Gradient
from ocnopt_lab.baselines import BASELINES, Kind
from ocnopt_lab.errors import LabError

Schedule = Literal["constant", "linear"]


def _ours(model: nn.Module, beta: float | None = None, **options: Any) -> optim.Optimizer:
    """Raises ValueError where β is given to another terminal factor than the one that has it."""
    if beta is None:
        return OCNOpt(model, **options)
    if options.pop("terminal", "gradient") != "gradient":
        raise ValueError("beta is that of the gradient factor; leave out beta, or choose terminal gradient.")
    return OCNOpt(model, terminal=Gradient(beta), **options)


_RATE = {"lr", "weight_decay", "momentum", "betas"}
_CONTROL = {"curvature", "terminal", "beta", "value", "rollout", "search", "feedback", "damping", "game", "alignment"}
_CONTROL |= {"feedback_samples", "feedback_every"}
TABLE: dict[str, Kind] = {
    "ocnopt": Kind(_ours, frozenset(_CONTROL | _RATE), (0.06, 0.12, 0.25, 0.5, 1.0)),
    **BASELINES,
}
Name = Annotated[str, arg(constructor=literal_type_from_choices(TABLE))]


@dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer and its options; an option left out keeps the optimizer's own default."""

    name: Name = "ocnopt"
    """Which optimizer."""
    lr: float | None = None
    """Learning rate. Left out: 1e-3 for adam, adamw and rmsprop, 3e-3 for soap, 0.01 for muon, 0.05 for sgd, 0.1 for
    shampoo and singd, 0.3 for ddp (1/μ), 1 for lbfgs and emsa (1/ρ), ocnopt's own for ocnopt."""
    curvature: str | None = None
    """ocnopt: the metric (sgd, rmsprop, adam, kfac, ekfac)."""
    terminal: str | None = None
    """ocnopt: the terminal factor (auto, gradient, true-vs-rest, gauss-newton, fisher)."""
    beta: float | None = None
    """ocnopt: β of the gradient terminal factor, the paper's choice; not negative."""
    value: str | None = None
    """ocnopt: the value function (per-sample, coupled, own-gains, robust)."""
    rollout: str | None = None
    """ocnopt: the forward pass of the policy (linear, nonlinear)."""
    search: str | None = None
    """ocnopt: how far to step (bounded, model, fixed; levenberg-marquardt and backtracking measure every step)."""
    feedback: float | None = None
    """ocnopt: strength of the feedback, 0 is the base optimizer and 1 the full policy."""
    feedback_samples: str | None = None
    """ocnopt: how many samples of each batch the feedback looks at (a number, all, or auto)."""
    feedback_every: int | None = None
    """ocnopt: the period of the feedback, in steps."""
    damping: float | None = None
    """ocnopt: damping of the curvature."""
    game: str | None = None
    """ocnopt: of layers that share a stage (off, feedback-nash, cooperative, cooperative-product)."""
    alignment: str | None = None
    """ocnopt: where a shortcut's layers sit in their block (bandit, first, last, or a number from 0 on)."""
    weight_decay: float | None = None
    """Weight decay."""
    momentum: float | None = None
    """Momentum. Left out: 0.9 for sgd and singd."""
    betas: tuple[float, float] | None = None
    """adam, adamw, soap, ocnopt: decay rates of the moments."""
    foreach: bool | None = None
    """adam, adamw: whether one call serves all parameters. Left out: torch's own choice for the device."""

    @property
    def label(self) -> str:
        """A short name for folders, tables and legends: ocnopt-rmsprop, adam."""
        return "-".join(part for part in (self.name, self.curvature, self.game) if part)

    def given(self) -> dict[str, Any]:
        """The options that are not left out."""
        given = {key: value for key, value in asdict(self).items() if key != "name" and value is not None}
        if self.alignment is not None and self.alignment.isdecimal():
            given["alignment"] = int(self.alignment)
        if self.feedback_samples is not None:
            given["feedback_samples"] = samples_of(self.feedback_samples)
        return given

    def options(self) -> dict[str, Any]:
        """The given options over the defaults of the table."""
        if self.name not in TABLE:
            raise LabError(f"There is no optimizer {self.name!r}; choose one of {', '.join(TABLE)}.")
        kind, given = TABLE[self.name], self.given()
        if foreign := sorted(given.keys() - kind.options):
            raise LabError(f"The optimizer {self.name} has no option {', '.join(foreign)}; leave it out.")
        return {**kind.defaults, **given}


def samples_of(text: str) -> int | str | None:
    """As OCNOpt takes them; None for "all"."""
    return int(text) if text.isdecimal() else None if text == "all" else text


def build(config: OptimizerConfig, model: nn.Module) -> optim.Optimizer:
    """The optimizer of `config` for all parameters of `model`."""
    options, kind = config.options(), TABLE[config.name]
    try:
        return kind.make(model, **options)
    except ValueError as error:  # the optimizers' own sentence about a bad value
        raise LabError(f"{config.name}: {error}") from error
    except ModuleNotFoundError as error:
        raise LabError(
            f"The optimizer {config.name} comes from {kind.package}, which is not installed ({error}); "
            f"`pip install {kind.package}` brings it."
        ) from error


def build_schedule(
    kind: Schedule, optimizer: optim.Optimizer, steps: int, spent: Callable[[], float] = lambda: 0.0
) -> optim.lr_scheduler.LambdaLR:
    """A constant rate, or one that falls linearly: to zero after `steps` steps, or when `spent`, a share, is 1."""

    def factor(step: int) -> float:
        return 1.0 if kind == "constant" else max(0.0, 1.0 - max(step / steps, spent()))

    return optim.lr_scheduler.LambdaLR(optimizer, factor)
