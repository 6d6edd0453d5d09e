"""Runs that differ in nothing but the seed, and the choice of a learning rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from ocnopt_lab.studies.statistics import Comparison, Estimate, compared, median_of
from ocnopt_lab.studies.summaries import Result

Number = Callable[[Result], float]
"""What of a run is looked at."""


def loss(result: Result) -> float:
    """The training loss after the last epoch."""
    return result.train_loss


@dataclass(frozen=True)
class Arm:
    """A method at one rate and one value of the knob, on one problem; seeds in order, at least one."""

    results: tuple[Result, ...]

    @property
    def method(self) -> str:
        return self.results[0].method

    @property
    def rate(self) -> float | None:
        return self.results[0].rate

    @property
    def knob(self) -> float | str | None:
        return self.results[0].knob

    @property
    def diverged(self) -> int:
        """How many of the runs."""
        return sum(result.diverged for result in self.results)

    def median(self, number: Number = loss) -> float:
        return median(map(number, self.results))

    def estimate(self, number: Number = loss) -> Estimate:
        """Median and interval."""
        return median_of([number(result) for result in self.results])

    def meets(self, other: Arm) -> bool:
        """Whether there is a seed that both have."""
        return not {x.seed for x in self.results}.isdisjoint(x.seed for x in other.results)

    def against(self, other: Arm, number: Number = loss) -> Comparison:
        """Over the seeds that both have, at least one."""
        mine, theirs = ({result.seed: number(result) for result in arm.results} for arm in (self, other))
        seeds = sorted(mine.keys() & theirs.keys())
        return compared([mine[seed] for seed in seeds], [theirs[seed] for seed in seeds])


def arms_of(results: Sequence[Result], problem: str) -> list[Arm]:
    """In the order of the plan."""
    groups: dict[tuple[str, float | None, float | str | None], list[Result]] = {}
    for result in results:
        if result.problem == problem:
            groups.setdefault((result.method, result.rate, result.knob), []).append(result)
    return [Arm(tuple(sorted(group, key=lambda result: result.seed))) for group in groups.values()]


def best_rates(arms: Sequence[Arm]) -> dict[str, Arm]:
    """Each method at the rate of the lowest median training loss."""
    names = dict.fromkeys(arm.method for arm in arms)
    return {name: min((arm for arm in arms if arm.method == name), key=Arm.median) for name in names}
