"""Everything that is measured of all variants at one size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ocnopt_lab.profiling import timing
from ocnopt_lab.profiling.counting import Counter, Work, steady
from ocnopt_lab.profiling.floor import Floor, floor_of
from ocnopt_lab.profiling.memory import Memory
from ocnopt_lab.profiling.phases import OUTSIDE, PHASES, PhasedTrainer, phase_seconds, take
from ocnopt_lab.profiling.sizes import Size, trainers_of
from ocnopt_lab.profiling.timing import Plan, endless
from ocnopt_lab.runs.config import RunConfig


@dataclass(frozen=True)
class Counted:
    """One variant: the mean work of a step by phase, the most bytes of tensors at once, and what it must do."""

    phases: dict[str, Work]
    held: int
    floor: Floor


@dataclass(frozen=True)
class Measured:
    """size: where.  blocks: seconds per step (rounds,).  seconds: per step by phase.  memory: where it was measured.

    All by variant.
    """

    size: Size
    blocks: dict[str, NDArray[np.float64]]
    seconds: dict[str, dict[str, float]]
    counted: dict[str, Counted]
    memory: dict[str, Memory] = field(default_factory=dict)

    def ms(self, variant: str) -> float:
        """Milliseconds per step, median of the blocks."""
        return 1000 * float(np.median(self.blocks[variant]))


def measure(configs: Mapping[str, RunConfig], size: Size, plan: Plan, tick: Callable[[], None]) -> Measured:
    """tick: called after each round, those of the phases too, and after each variant's count."""
    own = {name: replace(config, batch_size=size.batch) for name, config in configs.items()}
    trainers = trainers_of(own, size)
    blocks = timing.time_blocks(trainers, plan, tick)
    whole = plan.steps * math.ceil(max(period_of(x) for x in trainers.values()) / plan.steps)
    steps = plan.phase_steps or whole
    seconds = phase_seconds(trainers, steps, plan.phase_rounds, tick)
    counted = {}
    for name, trainer in trainers.items():
        counted[name] = count(trainer, size.batch, plan.phase_steps)
        tick()
    return Measured(size, blocks, seconds, counted)


def period_of(trainer: PhasedTrainer) -> int:
    return floor_of(trainer.optimizer, trainer.config.batch_size).period


def count(trainer: PhasedTrainer, batch: int, steps: int | None = None) -> Counted:
    """Over a whole period where no number of steps is given, since some work falls into some steps only."""
    floor = floor_of(trainer.optimizer, batch)
    steps = steps or floor.period
    counter = Counter(steady(trainer.model, trainer.optimizer), trainer.device.type)
    with trainer.phases.metered(counter), counter.running():
        take(endless(trainer), steps)
        trainer.phases.switch(OUTSIDE)
    parts = {name: work.over(steps) for name, work in counter.parts.items() if name != OUTSIDE}
    ordered = {name: parts[name] for name in (*PHASES, *sorted(parts.keys() - set(PHASES))) if name in parts}
    return Counted(ordered, counter.held, floor)
