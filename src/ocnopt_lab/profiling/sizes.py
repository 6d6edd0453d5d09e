"""The sizes at which a problem is profiled: samples of a batch, width and depth of the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from ocnopt_lab import data, problems
from ocnopt_lab.profiling.phases import PhasedTrainer
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.device import require_device

AXES = ("batch", "width", "depth")


@dataclass(frozen=True)
class Size:
    """batch: samples of a step.  width, depth: how many times as wide and as deep as the problem has it."""

    batch: int
    width: float = 1.0
    depth: int = 1

    @property
    def title(self) -> str:
        named = {"width": self.width, "depth": self.depth}
        return ", ".join([f"batch size {self.batch}", *(f"{key} x {x:g}" for key, x in named.items() if x != 1)])


def along(base: Size, axis: str, values: tuple[float, ...]) -> list[Size]:
    """The base with other values of one axis, and with its own, in ascending order."""
    own = {key: getattr(base, key) for key in AXES}
    kind = type(own[axis])
    return [Size(**{**own, axis: x}) for x in sorted({own[axis], *map(kind, values)})] if values else []


def trainer_of(config: RunConfig, size: Size) -> PhasedTrainer:
    """Data, network and optimizer, ready for the first step."""
    return trainers_of({"": config}, size)[""]


def trainers_of(configs: Mapping[str, RunConfig], size: Size) -> dict[str, PhasedTrainer]:
    """Of configurations of one problem, which share its data."""
    first = next(iter(configs.values()))
    require_device(first.device)
    if first.threads is not None:
        torch.set_num_threads(first.threads)
    problem = problems.get(first.problem).sized(size.width, size.depth)
    folder = Path(first.data_dir) if first.data_dir else None
    dataset = data.load(problem.data, data_dir=folder, recipe=problem.recipe)
    return {name: PhasedTrainer(config, problem, dataset) for name, config in configs.items()}
