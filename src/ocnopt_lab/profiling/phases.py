"""A training step divided into phases: those that the optimizer names, and the model's passes before them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from ocnopt import OCNOpt
from ocnopt.observing import REST, Blind, Switch
from ocnopt_lab.data import Dataset
from ocnopt_lab.problems import Problem
from ocnopt_lab.profiling.clocks import clock_on
from ocnopt_lab.profiling.timing import endless, interleaved
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.trainer import Trainer

FORWARD, BACKWARD, MOVE, OUTSIDE = "forward", "backward", "move", "outside"
PHASES = (
    *(FORWARD, BACKWARD, "statistics", "decompositions", "backward pass", "forward pass"),
    *("search", MOVE, REST),
)
"""In the order of a step. All of torch's own optimizers is a move; what is outside belongs to the loop."""


class Meter(Protocol):
    """Time, or work."""

    def charge(self, phase: str) -> None:
        """Everything since the last call belongs to the phase."""
        ...


class Idle:
    """Measures nothing."""

    def charge(self, phase: str) -> None:
        pass


class Phases(Switch, Blind):
    """Follows a step and has the meter charge each phase with what happens in it, those inside it left out."""

    def __init__(self) -> None:
        self.meter: Meter = Idle()
        self.name = OUTSIDE

    def switch(self, name: str) -> str:
        """From now on it is the phase ``name``; the one before."""
        self.meter.charge(self.name)
        before, self.name = self.name, name
        return before

    @contextmanager
    def timing(self) -> Iterator[None]:
        """The whole step; the optimizer's hooks say where it ends."""
        self.switch(REST)
        yield

    @contextmanager
    def metered(self, meter: Meter) -> Iterator[None]:
        """Steps under a meter."""
        self.meter = meter
        try:
            yield
        finally:
            self.meter = Idle()


class PhasedTrainer(Trainer):
    """A trainer whose steps are followed. Its numbers are those of any trainer."""

    def __init__(self, config: RunConfig, problem: Problem, data: Dataset) -> None:
        super().__init__(config, problem, data)
        self.phases = Phases()
        self.optimizer.register_step_pre_hook(lambda *_: self._switch(MOVE))
        self.optimizer.register_step_post_hook(lambda *_: self._switch(OUTSIDE))
        if isinstance(self.optimizer, OCNOpt):
            self.optimizer.watch = self.phases

    def _switch(self, name: str) -> None:
        self.phases.switch(name)

    def _evaluate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        self.phases.switch(FORWARD)
        found = super()._evaluate(x, y)
        self.phases.switch(BACKWARD)  # until the step begins
        return found


def phase_seconds(
    trainers: Mapping[str, PhasedTrainer], steps: int, rounds: int, after_round: Callable[[], None]
) -> dict[str, dict[str, float]]:
    """Median over rounds of the mean seconds per step of every phase, for each variant; the rounds are interleaved.

    steps: of a block, so many that work of every n-th step falls into each block alike.
    """
    runs = {name: endless(trainer) for name, trainer in trainers.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in trainers}
    for name in interleaved(list(trainers), rounds, after_round):
        clock = clock_on(trainers[name].device)
        with trainers[name].phases.metered(clock):
            take(runs[name], steps)
        found[name].append({phase: x / steps for phase, x in clock.seconds().items() if phase != OUTSIDE})
    return {name: medians(blocks) for name, blocks in found.items()}


def take(run: Iterator[Any], steps: int) -> None:
    for _ in islice(run, steps):
        pass


def medians(blocks: list[dict[str, float]]) -> dict[str, float]:
    """Of every phase, in the order of a step; a block without it counts as zero."""
    seen = {name for block in blocks for name in block}
    ordered = [*(name for name in PHASES if name in seen), *sorted(seen - set(PHASES))]
    return {name: float(np.median([block.get(name, 0.0) for block in blocks])) for name in ordered}
