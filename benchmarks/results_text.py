"""What the studies behind docs/results have shown, as Markdown: every number is computed from their runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from results_parts import NOTHING, blocks, circumstances
from results_studies import complete

from ocnopt.core.search import Bounded
from ocnopt_lab.commands.compare import Compare
from ocnopt_lab.studies import goals
from ocnopt_lab.studies.arms import Arm, arms_of, best_rates
from ocnopt_lab.studies.comparison import Comparison, OnProblem
from ocnopt_lab.studies.experiment import Experiment
from ocnopt_lab.studies.goals import Goal, time_to
from ocnopt_lab.studies.results import Table
from ocnopt_lab.studies.summaries import Result
from ocnopt_lab.studies.tables import score

Studies = Mapping[str, Experiment]
PAPER = {
    "wine-fcn": 98.18,
    "digits-fcn": 95.13,
    "mnist-fcn": 93.30,
    "fashion-mnist-fcn": 84.98,
    "mnist-cnn": 98.09,
    "cifar10-cnn": 71.92,
}
"""Test accuracy of DDPNOpt in Table 3 of Liu, Chen and Theodorou (2021), as far as we have it."""
FIRST_ORDER = ("sgd", "rmsprop", "adam")
TWIN = "ekfac-off"


# Table 3 of DDPNOpt


@dataclass(frozen=True)
class Row:
    """Median test accuracies in percent, each method at its best rate; None where there are no runs."""

    problem: str
    ours: float
    default: float | None
    twin: float | None
    rival: float | None
    name: str
    emsa: float | None

    def verdicts(self) -> list[bool | None]:
        """Against the twin without feedback, the best first-order method, E-MSA."""
        return [None if other is None else self.ours >= other for other in (self.twin, self.rival, self.emsa)]


def row_of(study: Experiment, emsa: Experiment | None) -> Row | None:
    (problem,) = study.problems
    arms = arms_of(complete(study), problem)
    best = best_rates(arms)
    if "ocnopt" not in best:
        return None
    rivals = {name: accuracy(best[name]) for name in FIRST_ORDER if name in best}
    name = max(rivals, key=lambda key: rivals[key] or -math.inf, default="")
    default = next((arm for arm in arms if arm.method == "ocnopt" and arm.rate == Bounded.default_lr), None)
    other = best_rates(arms_of(complete(emsa), problem)).get("emsa") if emsa else None
    return Row(
        problem,
        accuracy(best["ocnopt"]) or 0.0,
        accuracy(default),
        accuracy(best.get(TWIN)),
        rivals.get(name),
        name,
        accuracy(other),
    )


def accuracy(arm: Arm | None) -> float | None:
    return None if arm is None else 100 * max(arm.median(score), 0.0)


def table_three(studies: Studies) -> str:
    own = {name: study for name, study in studies.items() if name.startswith("table-")}
    found = [row_of(study, studies.get(name.replace("table-", "emsa-"))) for name, study in own.items()]
    rows = [row for row in found if row is not None]
    if not rows:
        return NOTHING
    columns = ("problem", "DDPNOpt, printed", "OCNOpt", "at its default", "feedback off", "first order")
    lines = [
        (
            row.problem,
            *map(shown, (PAPER.get(row.problem), row.ours, row.default, row.twin)),
            f"{shown(row.rival)} {row.name}",
            shown(row.emsa),
            *("" if held is None else "yes" if held else "no" for held in row.verdicts()),
        )
        for row in rows
    ]
    more = ("E-MSA", "≥ twin", "≥ first order", "≥ E-MSA")
    note = (
        "Test accuracy, %, medians over the seeds, each method at the rate of its lowest training loss. Feedback off: "
        "the same metric and search. First order: the best of SGD, RMSprop and Adam. The printed numbers are means of "
        "ten seeds on whole sets and trained to the end: they are no bar for runs this short."
    )
    table = Table("Accuracies", (*columns, *more), lines, note)
    every = [study for name, study in studies.items() if name.startswith(("table-", "emsa-"))]
    return blocks([counts(rows), table.markdown(), *circumstances(every)])


def counts(rows: Sequence[Row]) -> str:
    words = ("its twin without feedback", "the best of SGD, RMSprop and Adam", "E-MSA")
    told = []
    for word, column in zip(words, zip(*(row.verdicts() for row in rows), strict=True), strict=True):
        known = [held for held in column if held is not None]
        if known:
            told.append(f"at least {word} on **{sum(known)} of {len(known)}**")
    return f"OCNOpt's test accuracy is {'; '.join(told)} rows that have been run."


def shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


# time to target


@dataclass(frozen=True)
class Share:
    """Multiples of the fastest baseline's time to the loss that the best baseline ends with; ∞ where it is not met."""

    problem: str
    method: str
    goal: str
    seconds: float
    steps: float
    cost: float


def shares(study: Compare) -> list[Share]:
    """Of ours at their default rates, each baseline at all of its rates."""
    runs = [run for run in study.plan() if run.summary() is not None]
    results = complete(study)
    if not results:
        return []
    (part,) = Comparison(study.chosen(), results, runs, None).parts
    rivals = part.baselines(part.arms)
    return [share(part, arm, goal, rivals) for goal in part.goals[:1] for arm in part.ours(part.default)]


def share(part: OnProblem, arm: Arm, goal: Goal, rivals: Sequence[Arm]) -> Share:
    steps = min(rival.median(time_to(goal, "steps")) for rival in rivals)
    fastest = min(rivals, key=lambda rival: rival.median(time_to(goal)))
    cost = arm.median(per_step) / fastest.median(per_step)
    seconds = arm.median(time_to(goal)) / goals.best_time(goal, rivals)
    return Share(part.problem, arm.method, goal.words, seconds, arm.median(time_to(goal, "steps")) / steps, cost)


def per_step(result: Result) -> float:
    return result.seconds_per_step


def time_to_target(studies: Studies) -> str:
    """Against all that were swept, and against those alone that are not ours."""
    own = {n: s for n, s in studies.items() if n.startswith(("table-", "time-")) and isinstance(s, Compare)}
    if not any(complete(study) for study in own.values()):
        return NOTHING
    note = (
        "Medians over the seeds, OCNOpt at its default rate. Seconds and steps: to the target, as multiples of the "
        "fastest baseline's at any of its rates (each column has a fastest of its own); ∞ where the target was not met "
        "in the same number of epochs. Time per step: of a median step, as a multiple of that baseline's."
    )
    parts = [
        *timed("Time to the loss of the best swept baseline, our twin without feedback among them", own.values()),
        note,
        *timed("The same without our twin", map(without_twin, own.values())),
    ]
    return blocks([*parts, *circumstances(own.values())])


def without_twin(study: Compare) -> Compare:
    """Ours and the methods of other packages."""
    return replace(study, optimizers=",".join(x for x in study.optimizers.split(",") if x != TWIN))


def timed(title: str, studies: Iterable[Compare]) -> list[str]:
    """A sentence and a table, a row for each study that has runs."""
    found = [(study, x) for study in studies for x in shares(study)]
    rows = [
        (*place(study, x), ratio(x.seconds), ratio(x.steps), f"{x.cost:.1f}", x.goal.removeprefix("the "))
        for study, x in found
    ]
    table = Table(title, ("problem", "on", "x seconds", "x steps", "x time per step", "target"), rows)
    return [table.markdown(), count([x for _, x in found])]


def place(study: Experiment, x: Share) -> tuple[str, str]:
    return x.problem, study.device if study.device == "cpu" else "GPU"


def ratio(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "∞"


def count(found: Sequence[Share]) -> str:
    """How often the target of the project was met."""
    fast = sum(x.seconds <= 0.8 for x in found)
    slow = sum(x.seconds > 1.25 for x in found)
    steps = sum(x.steps <= 0.8 for x in found)
    return (
        f"OCNOpt at its default rate needs at most 0.8 times the seconds on **{fast} of {len(found)}** and more "
        f"than 1.25 times on **{slow}**; at most 0.8 times the steps on **{steps}**."
    )
