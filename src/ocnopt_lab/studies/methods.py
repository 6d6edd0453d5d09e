"""Methods that studies know by a name: every optimizer of the table, OCNOpt with every metric, and without feedback."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ocnopt.core.search import Bounded, Model
from ocnopt.curvature import TABLE as CURVATURES
from ocnopt_lab.errors import LabError
from ocnopt_lab.optimizers import TABLE, OptimizerConfig

_MULTIPLIERS = (0.2, 0.35, 0.5, 0.7, 1.0)


@dataclass(frozen=True)
class Method:
    """An optimizer whose rate is swept. Of OCNOpt it is the longest step, or what multiplies the search's own."""

    name: str
    optimizer: OptimizerConfig

    @property
    def rates(self) -> tuple[float, ...]:
        """In ascending order."""
        return _MULTIPLIERS if self.optimizer.search == "model" else TABLE[self.optimizer.name].rates

    @property
    def default_rate(self) -> float:
        """One of the rates."""
        own = Model.default_lr if self.optimizer.search == "model" else Bounded.default_lr
        return TABLE[self.optimizer.name].defaults.get("lr", own)

    @property
    def ours(self) -> bool:
        """Whether there is feedback; without it OCNOpt is a baseline too."""
        return self.optimizer.name == "ocnopt" and self.optimizer.feedback != 0

    def at(self, rate: float) -> OptimizerConfig:
        """The optimizer with this rate."""
        return replace(self.optimizer, lr=rate)


METHODS = {
    method.name: method
    for method in (
        *(Method(name, OptimizerConfig(name)) for name in TABLE),
        *(Method(f"ocnopt-{name}", OptimizerConfig(curvature=name)) for name in CURVATURES),
        Method("ocnopt-model", OptimizerConfig(search="model")),
        *(Method(f"{name}-off", OptimizerConfig(curvature=name, feedback=0.0)) for name in CURVATURES),
    )
}


def get(name: str) -> Method:
    """The method `name`, or a sentence with the names there are."""
    if name not in METHODS:
        raise LabError(f"There is no method {name!r} to study; choose from {', '.join(METHODS)}.")
    return METHODS[name]
