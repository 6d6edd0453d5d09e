"""What is searched: options of OCNOpt, each with its range and today's default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ocnopt.core.search import Bounded, Model
from ocnopt.core.terminal import Auto
from ocnopt.curvature import EKFAC

if TYPE_CHECKING:
    from optuna import Trial

Values = Mapping[str, Any]
"""Knob → value."""


@dataclass(frozen=True)
class Number:
    """name: in the tables.  log: whether it is searched on a logarithmic scale."""

    name: str
    words: str
    low: float
    high: float
    default: float
    log: bool = True

    @property
    def range(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    def suggest(self, trial: Trial) -> float:
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    name: str
    words: str
    choices: tuple[str, ...]
    default: str

    @property
    def range(self) -> str:
        return ", ".join(self.choices)

    def suggest(self, trial: Trial) -> str:
        return trial.suggest_categorical(self.name, self.choices)


SEARCHES = {"model": Model, "bounded": Bounded}
_METRIC, _MODEL = EKFAC(), Bounded()
KNOBS: tuple[Number | Choice, ...] = (
    Choice("search", "whether lr multiplies the model's step or bounds it", tuple(SEARCHES), "bounded"),
    Number("lr", "that multiplier or bound", 0.03, 1.5, _MODEL.default_lr),
    Number("momentum", "longest heavy-ball coefficient", 0.5, 1.0, _MODEL.longest[1], log=False),
    Number("feedback", "κ, strength of the feedback", 0.0, 2.0, 1.0, log=False),
    Number("saturation", "how far feedback may change a weight", 0.1, 1.0, 0.5, log=False),
    Number("forgetting", "1 - β of the factors' running averages", 0.001, 0.2, 1 - _METRIC.averaging),
    Number("start", "λ of the first step", 0.1, 10.0, _MODEL.start),
    Number("noise", "floor of λ, times the labels of a batch", 0.02, 20.0, _MODEL.noise),
    Number("decay", "factor on λ after a good step", 0.6, 0.98, _MODEL.decay, log=False),
    Number("across", "from the rank-one bound to the trace", 0.0, 1.0, Auto().across, log=False),
)
PERIODS = {"statistics_every": (2, 5, 20), "decompose_every": (10, 25, 100)}
"""Trade steps for seconds, which no search at equal steps can weigh: they are tried one by one."""


def defaults() -> dict[str, Any]:
    """Today's, which are a point of the space."""
    return {knob.name: knob.default for knob in KNOBS}


def suggested(trial: Trial) -> dict[str, Any]:
    return {knob.name: knob.suggest(trial) for knob in KNOBS}


def options(values: Values) -> dict[str, Any]:
    """Keyword arguments of OCNOpt for a value of every knob; a period that is left out stays the default."""
    periods = {name: values[name] for name in PERIODS if name in values}
    model = SEARCHES[values["search"]]
    return {
        "lr": values["lr"],
        "curvature": EKFAC(averaging=1 - values["forgetting"], **periods),
        "search": model(
            longest=(1.0, values["momentum"]), start=values["start"], noise=values["noise"], decay=values["decay"]
        ),
        "terminal": Auto(across=values["across"]),
        "feedback": values["feedback"],
        "saturation": values["saturation"],
    }
