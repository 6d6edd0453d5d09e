"""Losses to reach, and how long runs took to reach them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from ocnopt_lab.studies.arms import Arm, Number
from ocnopt_lab.studies.results import Table
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.summaries import Result
from ocnopt_lab.studies.tables import rate_of, tell
from ocnopt_lab.studies.targets import reached


@dataclass(frozen=True)
class Goal:
    """A loss per seed, and words for it. `key` names it in results.json."""

    key: str
    words: str
    losses: dict[int, float]


def best_loss(baselines: Sequence[Arm]) -> Goal | None:
    """The final training loss of that baseline, and that rate of it, with the lowest median; seed by seed.

    For a seed at which it diverged, the median. None without baselines, and where all of them diverged.
    """
    best = min(baselines, key=Arm.median, default=None)
    if best is None or not math.isfinite(best.median()):
        return None
    losses = {x.seed: best.median() if x.diverged else x.train_loss for x in best.results}
    return Goal("best baseline", f"the final training loss of {best.method} at {rate_of(best)}, seed by seed", losses)


def fixed_loss(loss: float, seeds: Sequence[int]) -> Goal:
    """One loss for all seeds."""
    return Goal(f"{loss:g}", f"a training loss of {loss:g}", dict.fromkeys(seeds, loss))


def with_times(results: Sequence[Result], runs: Sequence[Run], goals: Sequence[Goal]) -> list[Result]:
    """The results, with steps and seconds to each goal under `to_target` for results.json."""
    timed = []
    for result, run in zip(results, runs, strict=True):
        found = {goal.key: reached(run, goal.losses.get(run.seed, -math.inf)) for goal in goals}
        times = {key: {"steps": x.steps, "seconds": x.seconds} for key, x in found.items()}
        timed.append(replace(result, extra={**result.extra, "to_target": times}))
    return timed


def time_to(goal: Goal, unit: str = "seconds") -> Number:
    """Of a result that has its times."""
    return lambda result: result.extra["to_target"][goal.key][unit]


def best_time(goal: Goal, baselines: Sequence[Arm]) -> float:
    """The least median of seconds over all baselines and rates; infinite without one."""
    return min((arm.median(time_to(goal)) for arm in baselines), default=math.inf)


def goal_table(title: str, goal: Goal, arms: Sequence[Arm], every: Sequence[Arm], best: float) -> Table:
    """A row for each of `arms`; `every` has all rates of their methods, `best` is the time to compare with."""
    columns = ("method", "rate", "reached", "steps", "seconds", "x best baseline", "fastest rate", "its seconds")
    rows = []
    for arm in arms:
        own = [other for other in every if other.method == arm.method]
        fastest = min(own, key=lambda other: other.median(time_to(goal)))
        times = [time_to(goal)(result) for result in arm.results]
        rows.append(
            (
                arm.method,
                rate_of(arm),
                f"{sum(map(math.isfinite, times))} of {len(times)}",
                tell(arm.median(time_to(goal, "steps"))),
                arm.estimate(time_to(goal)).text(tell),
                tell(median(times) / best) if math.isfinite(best) else "",
                rate_of(fastest) if math.isfinite(fastest.median(time_to(goal))) else "",
                tell(fastest.median(time_to(goal))),
            )
        )
    return Table(f"{title}: time to {goal.words}", columns, rows, _NOTE)


_NOTE = (
    "Reached: the first time that the mean loss of a group of steps, or the loss over the training set after an epoch, "
    "was at most the target. A run that never did has an infinite time. Best baseline: the least median of all "
    "baselines at all their rates."
)
