"""What `ocnopt compare` tells: every method at its best rate and at its default, times to targets, paired tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ocnopt_lab.studies import curves, goals, pictures
from ocnopt_lab.studies.arms import Arm, arms_of, best_rates, loss
from ocnopt_lab.studies.goals import Goal, time_to
from ocnopt_lab.studies.methods import Method
from ocnopt_lab.studies.results import Picture, Table
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.statistics import performance_profile
from ocnopt_lab.studies.summaries import Result
from ocnopt_lab.studies.tables import comparisons, outcomes, pairs_of, rate_of, score, score_form

CURVES, RATES, PROFILE = "curves.png", "rates.png", "profile.png"


class OnProblem:
    """The arms of one problem: all of them, the best of each method, those at the default rates; and the goals."""

    def __init__(self, problem: str, results: Sequence[Result], methods: Sequence[Method], target: float | None):
        self.problem, self.methods = problem, {method.name: method for method in methods}
        self.arrange(results)
        seeds = sorted({result.seed for arm in self.arms for result in arm.results})
        found = [goals.best_loss(self.baselines(self.arms)), goals.fixed_loss(target, seeds) if target else None]
        self.goals = [goal for goal in found if goal is not None]

    def arrange(self, results: Sequence[Result]) -> None:
        """Sorts the results into arms."""
        self.arms = arms_of(results, self.problem)
        self.best = list(best_rates(self.arms).values())
        self.default = [arm for arm in self.arms if arm.rate == self.methods[arm.method].default_rate]

    def ours(self, arms: Sequence[Arm]) -> list[Arm]:
        return [arm for arm in arms if self.methods[arm.method].ours]

    def baselines(self, arms: Sequence[Arm]) -> list[Arm]:
        return [arm for arm in arms if not self.methods[arm.method].ours]

    def candidates(self) -> list[Arm]:
        """Ours, at the default and where it is another at the best rate."""
        default = self.ours(self.default)
        return default + [arm for arm in self.ours(self.best) if arm not in default]

    def tables(self) -> list[Table]:
        name = self.problem
        found = [
            outcomes(f"{name}: each method at its best rate", self.best, self.edges()),
            outcomes(f"{name}: each method at its default rate", self.default),
            *(goals.goal_table(name, goal, self.best, self.arms, self.best_time(goal)) for goal in self.goals),
            *self.paired(),
        ]
        if len(self.arms) > len(self.best):
            found.append(outcomes(f"{name}: all rates", self.arms))
        return [table for table in found if table.rows]

    def edges(self) -> str:
        """How the rates were chosen, and where a wider grid might have found a better one."""
        told = "Best: of the lowest median training loss."
        swept = {arm.method: [x.rate for x in self.arms if x.method == arm.method] for arm in self.best}
        at_edge = [arm.method for arm in self.best if arm.rate in (swept[arm.method][0], swept[arm.method][-1])]
        found = [name for name in at_edge if len(swept[name]) > 1]
        return f"{told} At the edge of its grid: {', '.join(found)}." if found else told

    def paired(self) -> list[Table]:
        """Ours against the baselines at their best rates, seed by seed."""
        first, second = self.candidates(), self.baselines(self.best)
        if not first or not second:
            return []
        measure = first[0].results[0].measure
        return [
            comparisons(f"{self.problem}: training loss, seed by seed", pairs_of(first, second, loss)),
            comparisons(
                f"{self.problem}: {measure.label}, seed by seed",
                pairs_of(first, second, score),
                score_form(measure),
            ),
        ]

    def best_time(self, goal: Goal) -> float:
        return goals.best_time(goal, self.baselines(self.arms))

    def sentences(self) -> list[str]:
        """Of each candidate, its share of the best baseline's time to each goal."""
        return [
            f"**{self.problem}**, to {goal.words}: {arm.method} at {rate_of(arm)} {self.share(arm, goal)}."
            for goal in self.goals
            for arm in self.candidates()
            if self.baselines(self.arms)
        ]

    def share(self, arm: Arm, goal: Goal) -> str:
        mine, best = arm.median(time_to(goal)), self.best_time(goal)
        if not math.isfinite(mine):
            return "does **not** get there in the median"
        if not math.isfinite(best):
            return f"needs {mine:.3g} s, and no baseline gets there in the median"
        return f"needs **{mine / best:.2f} times** the seconds of the fastest baseline"


class Comparison:
    """All problems of a study."""

    def __init__(
        self, methods: Sequence[Method], results: Sequence[Result], runs: Sequence[Run], target: float | None
    ) -> None:
        self.methods, self.runs, self.results = methods, runs, list(results)
        names = dict.fromkeys(result.problem for result in results)
        self.parts = [OnProblem(name, results, methods, target) for name in names]
        known = {part.problem: part.goals for part in self.parts}
        pairs = zip(results, runs, strict=True)
        self.results = [x for result, run in pairs for x in goals.with_times([result], [run], known[run.problem])]
        for part in self.parts:
            part.arrange(self.results)

    def sentences(self) -> list[str]:
        return [sentence for part in self.parts for sentence in part.sentences()]

    def tables(self) -> list[Table]:
        return [table for part in self.parts for table in part.tables()]

    def draw(self, folder: Path) -> list[Picture]:
        """Writes the pictures there is something for."""
        style = pictures.styles({method.name: method.ours for method in self.methods})
        shown = {result.folder for part in self.parts for arm in part.best for result in arm.results}
        curves.draw(folder / CURVES, [run for run in self.runs if run.path.name in shown], style)
        found = [Picture(CURVES, "Loss of the batches at each method's best rate, medians over the seeds.")]
        if any(len(part.arms) > len(part.best) for part in self.parts):
            pictures.draw_rates(folder / RATES, {part.problem: part.arms for part in self.parts}, style)
            found.append(Picture(RATES, "Final training loss over learning rates, medians with 95 % intervals."))
        if costs := self.costs():
            label = "seconds to the loss of the best baseline, as a multiple of the fastest method's"
            pictures.draw_profile(folder / PROFILE, performance_profile(costs), label, style)
            found.append(Picture(PROFILE, "Performance profile: within what multiple of the least time it is reached."))
        return found

    def costs(self) -> dict[str, list[float]]:
        """Seconds to the best baseline's loss per method at its best rate, over problems and seeds that all have."""
        found: dict[str, list[float]] = {method.name: [] for method in self.methods}
        for part in self.parts:
            times = {arm.method: self.times(arm, part.goals[0]) for arm in part.best} if part.goals else {}
            if len(times) == len(found):
                for seed in sorted(set.intersection(*map(set, times.values()))):
                    for name, own in times.items():
                        found[name].append(own[seed])
        return found if all(found.values()) else {}

    def times(self, arm: Arm, goal: Goal) -> dict[int, float]:
        return {result.seed: time_to(goal)(result) for result in arm.results}
