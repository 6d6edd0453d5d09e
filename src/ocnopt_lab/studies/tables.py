"""Tables that studies share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ocnopt_lab.studies.arms import Arm, Number, loss
from ocnopt_lab.studies.results import Table
from ocnopt_lab.studies.statistics import Comparison, holm, smallest_p
from ocnopt_lab.studies.summaries import Result, cell, heading
from ocnopt_lab.tasks import Measure

LEVEL = 0.05
Pair = tuple[str, str, Comparison]
"""Words for the first and the second, and how they compare."""


def tell(value: float) -> str:
    """Four digits; ∞ for a run that diverged."""
    return f"{value:.4g}" if math.isfinite(value) else "∞" if value > 0 else "-∞"


def rate_of(arm: Arm) -> str:
    return "" if arm.rate is None else f"{arm.rate:g}"


def score(result: Result) -> float:
    """That of the measure, on the test set."""
    return result.test_score


def outcomes(title: str, arms: Sequence[Arm], note: str = "") -> Table:
    """A row per arm: losses, scores, time and memory."""
    if not arms:  # of a study that was interrupted
        return Table(title, (), (), note)
    measure = arms[0].results[0].measure
    columns = ("method", "rate", "training loss", heading(measure), "seconds", "ms/step", "peak MB", "diverged")
    rows = [
        (
            arm.method,
            rate_of(arm),
            arm.estimate().text(tell),
            arm.estimate(score).text(score_form(measure)),
            f"{arm.median(lambda result: result.seconds):.3g}",
            f"{1000 * arm.median(lambda result: result.seconds_per_step):.3g}",
            f"{arm.median(lambda result: result.memory_mb):.0f}",
            f"{arm.diverged} of {len(arm.results)}",
        )
        for arm in arms
    ]
    return Table(title, columns, rows, note)


def pairs_of(firsts: Sequence[Arm], seconds: Sequence[Arm], number: Number = loss) -> list[Pair]:
    """Every one of the first against every one of the second, where they have a seed in common."""
    words = {id(arm): f"{arm.method} at {rate_of(arm)}" if arm.rate else arm.method for arm in (*firsts, *seconds)}
    return [(words[id(a)], words[id(b)], a.against(b, number)) for a in firsts for b in seconds if a.meets(b)]


def comparisons(title: str, pairs: Sequence[Pair], form: Callable[[float], str] = tell) -> Table:
    """A row per pair, with Holm's correction over the table."""
    corrected = holm([found.p for _, _, found in pairs])
    rows = [(*names, *tested(found, p, form)) for (*names, found), p in zip(pairs, corrected, strict=True)]
    columns = ("first", "second", "first - second", "first lower", "p", "p (Holm)")
    return Table(title, columns, rows, power([found for *_, found in pairs]))


def tested(found: Comparison, corrected: float, form: Callable[[float], str]) -> tuple[str, str, str, str]:
    """Difference, in how many seeds the first was lower, p, and p corrected."""
    lower = f"{found.lower} of {found.seeds}"
    return found.difference.text(form), lower, f"{found.p:.3g}", f"{corrected:.3g}"


def score_form(measure: Measure) -> Callable[[float], str]:
    """How scores and their differences are written, without the unit."""
    return lambda value: cell(measure, value) if math.isfinite(value) else tell(value)


def power(found: Sequence[Comparison]) -> str:
    """What was tested, and what so few seeds cannot show."""
    least = max((smallest_p(comparison.seeds) for comparison in found), default=0.0)
    told = "Wilcoxon's signed-rank test over the seeds, two-sided, corrected by Holm's method over this table."
    if least <= LEVEL:
        return told
    return f"{told} With so few seeds no p can be below {least:.3g}; six are the fewest that can show p < {LEVEL}."
