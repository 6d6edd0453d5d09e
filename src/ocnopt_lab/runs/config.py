"""What a run is made of, as written to config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ocnopt_lab.errors import LabError
from ocnopt_lab.optimizers import OptimizerConfig, Schedule


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the numbers of a run."""

    problem: str
    epochs: int
    batch_size: int
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    seed: int = 0
    schedule: Schedule = "linear"
    data: str | None = None
    data_dir: str | None = None
    threads: int | None = None
    eval_samples: int | None = None
    train_samples: int | None = None
    split: int = 0
    gains: int | None = None
    seconds: float | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "threads", "eval_samples", "train_samples", "gains"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise LabError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        if self.gains is not None and self.optimizer.name != "ocnopt":
            raise LabError(f"--gains looks at feedback policies, and {self.optimizer.name} has none; leave it out.")
        if self.seconds is not None and not self.seconds > 0:
            raise LabError(f"--seconds is {self.seconds:g}; it must be more than 0.")
        if self.split < 0:
            raise LabError(f"--split is {self.split}; splits are counted from 0.")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def arguments(self) -> list[str]:
        """The words behind `ocnopt train` that lead to this configuration."""
        own = {key: value for key, value in vars(self).items() if key not in ("problem", "optimizer")}
        chosen = {f"optimizer.{key}": value for key, value in vars(self.optimizer).items()}
        return [self.problem, *words({**own, **chosen})]

    @staticmethod
    def from_dict(values: dict[str, Any], source: Path) -> RunConfig:
        """The inverse of `to_dict`; `source` is named where the values do not fit."""
        try:
            options = dict(values["optimizer"])
            options["betas"] = tuple(options["betas"]) if options.get("betas") else None
            return RunConfig(**{**values, "optimizer": OptimizerConfig(**options)})
        except (KeyError, TypeError) as error:
            raise LabError(f"{source} is not the configuration of a run ({error}).") from error


def words(options: Mapping[str, Any]) -> list[str]:
    """Options as they are typed; those that are None are left out, several values of one follow each other."""
    typed: list[str] = []
    for name, value in options.items():
        if value is not None:
            values = value if isinstance(value, tuple) else (value,)
            typed += [f"--{name.replace('_', '-')}", *map(str, values)]
    return typed
