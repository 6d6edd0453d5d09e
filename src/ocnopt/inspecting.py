"""What an optimizer tells of itself: coverage, diagnostics, and a closer look into a step on request."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping

from .core.acceptance import Outcome
from .core.value import Value
from .curvature import Curvature
from .memory import MemoryPlan, adamw_bytes, budget_of, caps, plan_of
from .observing import BLIND, Blind, Watch
from .planning import Planned
from .reporting import Coverage, Report
from .trials import method_of


class Inspected(Planned):
    """An optimizer that can be looked into.

    memory_budget: bytes that may stay between steps, None for no limit.
    watch: what looks into the coming step.  seen: the figures of the last step that was looked into, and its number.
    """

    report: Report
    value: Value
    memory_budget: int | str | None = None
    watch: Blind = BLIND
    seen: Mapping[str, float] = {}

    def observe(self) -> None:
        """Look into the coming step: then ``diagnostics()`` has the figures of every layer, and where the time went.

        The step takes a little longer and comes out the same, bit for bit. A step that is skipped does not count.
        """
        self.watch = Watch({p.device for group in self.param_groups for p in group["params"]})

    def look(self) -> None:
        """Keep what the watch has seen of the step that was taken, if anything."""
        figures = self.watch.figures()
        if figures:
            self.seen, self.watch = {"observed step": self.clock["step"], **figures}, BLIND

    def skip(self) -> None:
        """Count a step that is not taken, and warn of the first."""
        self.tally["steps skipped"] += 1
        if self.tally["steps skipped"] == 1:
            warnings.warn(
                "OCNOpt skipped a step: the loss or a gradient is not finite. The parameters and all running averages "
                "are as before; diagnostics()['steps skipped'] counts such steps.",
                stacklevel=6,
            )

    def coverage(self) -> Coverage:
        """Every parameter once: its player, its metric, whether it takes part in the feedback, and why not.

        A list of rows; ``str`` of it is a table, and rich prints it as one.
        """
        return self.report.rows()

    def memory_plan(self) -> MemoryPlan:
        """What stays in memory between steps for every layer, and how its factors are kept; ``str`` is a table."""
        return self.planned(self.curvature)

    def planned(self, curvature: Curvature) -> MemoryPlan:
        """``memory_plan`` for another curvature."""
        method = method_of(curvature, self.search, self.value, {})
        rows = plan_of(self.seats, method, self.param_groups[0], self.report.held)
        adamw = adamw_bytes([p for group in self.param_groups for p in group["params"]])
        return MemoryPlan(rows, adamw, budget_of(self.memory_budget, adamw))

    def keep_within_budget(self) -> None:
        """Cut factors into the largest blocks that the budget allows; ValueError where diagonals are too much."""
        if self.memory_budget is None:
            return
        for curvature in caps(self.curvature):
            plan = self.planned(curvature)
            if plan.budget is None or plan.total <= plan.budget:
                self.curvature = curvature
                return
        raise ValueError(
            f"memory_budget={self.memory_budget!r} allows {plan.budget} bytes, and this optimizer keeps {plan.total} "
            "with diagonals alone; raise it, or choose curvature='adam' with search='fixed'."
        )

    def diagnostics(self) -> dict[str, float]:
        """The state of the search, and counts of everything that was skipped, held or fell back, as a flat dict.

        After ``observe()`` also "layer/quantity" of the step whose number stands under "observed step". These stay
        until another step is observed: they are of the last step only while that number is ``step``.
        """
        numbers = {name: value for name, value in self.clock.items() if isinstance(value, int | float)}
        counts = {"steps skipped": 0, **self.tally}
        return {**numbers, **outcome_of(self.last_step), **counts, **self.report.numbers(), **self.seen}

    def decisions(self) -> dict[str, list[tuple[int, int, float]]]:
        """What the bandits have chosen: per block, (first step of a period, alignment, reward in [0, 1])."""
        return {} if self.game is None else self.game.alignments.decisions()


def outcome_of(outcome: Outcome | None) -> dict[str, float]:
    """What was measured of the last step: by how much its last try changed the objective, and that over the promise."""
    if outcome is None:
        return {}
    told = {"accepted": float(outcome.accepted), "actual": -outcome.actual, "ratio": outcome.ratio}
    return {name: x for name, x in told.items() if math.isfinite(x)}
