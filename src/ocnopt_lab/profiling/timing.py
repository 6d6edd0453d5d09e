"""Time per step of all variants in one process, in turn, so that a busy machine slows them alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ocnopt_lab.runs.trainer import StepResult, Trainer

_RESAMPLES = 2000


@dataclass(frozen=True)
class Plan:
    """Each round runs a block of `steps` steps of every variant, in random order, after `warmup` steps of each.

    `phase_rounds`: rounds of their own, in which the phases of the steps are told apart.  `phase_steps`: of each of
    their blocks, and of the work that is counted; None for a whole period of the statistics.
    """

    steps: int
    rounds: int
    warmup: int
    phase_rounds: int = 3
    phase_steps: int | None = None


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float


def time_blocks(
    trainers: Mapping[str, Trainer], plan: Plan, after_round: Callable[[], None]
) -> dict[str, NDArray[np.float64]]:
    """Mean seconds per step of each block, one array (rounds,) per variant.

    The mean inside a block counts work that falls in some steps only, as long as a block holds one such step.
    """
    runs = {name: endless(trainer) for name, trainer in trainers.items()}
    for run in runs.values():
        _block(run, plan.warmup)
    blocks: dict[str, list[float]] = {name: [] for name in runs}
    for name in interleaved(list(runs), plan.rounds, after_round):
        blocks[name].append(_block(runs[name], plan.steps))
    return {name: np.array(means) for name, means in blocks.items()}


def interleaved(names: list[str], rounds: int, after_round: Callable[[], None]) -> Iterator[str]:
    """All names in each round, in random order."""
    shuffle = random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(names)
        yield from names
        after_round()


def endless(trainer: Trainer) -> Iterator[StepResult]:
    """Epoch after epoch."""
    while True:
        yield from trainer.epoch()


def _block(run: Iterator[StepResult], steps: int) -> float:
    """Mean seconds per step."""
    return sum(result.seconds for result in islice(run, steps)) / steps


def ratio(blocks: NDArray[np.float64], baseline: NDArray[np.float64]) -> Ratio:
    """Median over median; the resamples draw whole rounds, as both were measured side by side."""
    from scipy.stats import bootstrap  # a second to import: not for the other commands

    def statistic(a: NDArray[np.float64], b: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.median(a, axis=axis) / np.median(b, axis=axis)

    value = float(statistic(blocks, baseline))
    if blocks is baseline:
        return Ratio(value, value, value)
    result = bootstrap((blocks, baseline), statistic, paired=True, method="percentile", n_resamples=_RESAMPLES, rng=0)
    return Ratio(value, float(result.confidence_interval.low), float(result.confidence_interval.high))
