"""What a search has found, as tables and sentences: every number is computed from its trials and checks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median, mode
from typing import Any

import numpy as np
from optuna.trial import FrozenTrial

from ocnopt_lab import problems
from ocnopt_lab.studies.results import Table
from ocnopt_lab.studies.statistics import Estimate, compared, resampled
from ocnopt_lab.studies.summaries import many
from ocnopt_lab.studies.tables import score_form
from ocnopt_lab.tuning.cases import Case, Outcome
from ocnopt_lab.tuning.search import DEFAULT, Candidate, Search, best, chosen, finished, gain, importances, periods
from ocnopt_lab.tuning.space import KNOBS

NONE = "no trial is complete yet"


@dataclass(frozen=True)
class Group:
    """Cases that are looked at together, and words for them."""

    words: str
    cases: tuple[Case, ...]


class Told:
    """Of a search, of the groups on which its best trials were checked, and of the periods on the second of them."""

    def __init__(self, search: Search, count: int, groups: Sequence[Group]) -> None:
        self.search, self.study = search, search.study()
        self.candidates = chosen(self.study, count)
        self.groups = [Group(g.words, self.complete(g.cases, self.candidates)) for g in groups]
        self.timed = self.complete(groups[_UNSEEN].cases, [self.candidates[0], *periods()])

    def complete(self, cases: Sequence[Case], candidates: Sequence[Candidate]) -> tuple[Case, ...]:
        """Those on which all runs are there."""
        names = [*(f"adam-{lr:g}" for lr in self.search.settings.lrs), *(c.name for c in candidates)]
        folder = self.search.folder / "runs"
        return tuple(c for c in cases if all((folder / f"{name}-{c.name}.json").exists() for name in names))

    def gains(self, candidate: Candidate, cases: Sequence[Case]) -> list[float]:
        """log(loss / best Adam's), case by case."""
        return [gain(self.run(candidate, case).loss, self.search.reference(case)) for case in cases]

    def run(self, candidate: Candidate, case: Case) -> Outcome:
        return self.search.candidate(candidate, case)

    # tables

    def tables(self) -> list[Table]:
        checks = [*map(self.checks, self.groups), *map(self.scores, self.groups)]
        found = [self.knobs(), self.trials(), *checks, self.periods()]
        return [table for table in found if table.rows]

    def knobs(self) -> Table:
        """Range, default, what the best trials chose, and how much each knob decides."""
        shares, top = importances(self.study), best(self.study, _TOP)
        rows = [
            (
                knob.name,
                knob.words,
                knob.range,
                plain(knob.default),
                plain(top[0].params[knob.name]) if top else "",
                middle([trial.params[knob.name] for trial in top]),
                f"{shares[knob.name]:.0%}" if knob.name in shares else "",
            )
            for knob in KNOBS
        ]
        columns = ("option", "what it is", "searched", "default", "best trial", f"best {len(top)}", "importance")
        note = (
            "Of the best trials the median and middle half, or the most frequent. Importance: share of the variance "
            "of the objective over the trials, by optuna's functional analysis of variance; it says what matters in "
            "this space, not what is best."
        )
        return Table("What was searched", columns, rows, note)

    def trials(self) -> Table:
        """Today's defaults and the best trials on the cases of the search."""
        chosen = [t for t in finished(self.study) if t.number == DEFAULT] + best(self.study, _SHOWN)
        cases = self.search.cases
        rows = [(_name(t), told(t.value), *(told(t.user_attrs.get(case.name)) for case in cases)) for t in chosen]
        columns = ("trial", "mean", *(case.name for case in cases))
        note = (
            "Training loss as a multiple of that of the best Adam; the mean is geometric. The best of many trials is "
            "flattered by chance, see the checks."
        )
        return Table("The search", columns, rows, note)

    def checks(self, group: Group) -> Table:
        """Losses as multiples of the best Adam's, problem by problem."""
        names = list(dict.fromkeys(case.problem for case in group.cases))
        rows = []
        for candidate in self.candidates if group.cases else ():
            own = {name: self.gains(candidate, [c for c in group.cases if c.problem == name]) for name in names}
            cells = [told(median(found)) for found in own.values()]
            rows.append((candidate.words, self.overall(candidate, group), *cells, self.against(candidate, group)))
        columns = ("candidate", "geometric mean", *names, "paired with the defaults")
        seeds = len({case.seed for case in group.cases})
        note = (
            f"Training loss as a multiple of that of the best Adam, medians over {many(seeds, 'seed')} that the "
            "search has not seen; means over all runs with bootstrap intervals of 95 %. Paired: mean ratio of the "
            "losses, in how many runs they were lower, and p of Wilcoxon's signed-rank test."
        )
        return Table(f"Checked on {group.words}", columns, rows, note)

    def overall(self, candidate: Candidate, group: Group) -> str:
        return resampled(self.gains(candidate, group.cases), np.mean).text(told)

    def difference(self, candidate: Candidate, group: Group) -> Estimate:
        """Of the logarithms of the losses, to those of today's defaults."""
        own, known = self.gains(candidate, group.cases), self.gains(self.candidates[0], group.cases)
        return resampled(np.subtract(own, known), np.mean)

    def against(self, candidate: Candidate, group: Group) -> str:
        if candidate is self.candidates[0]:
            return ""
        found = compared(self.gains(candidate, group.cases), self.gains(self.candidates[0], group.cases))
        ratio = self.difference(candidate, group).text(told)
        return f"{ratio}, {found.lower} of {found.seeds}, p = {found.p:.2g}"

    def scores(self, group: Group) -> Table:
        """On test samples."""
        names = list(dict.fromkeys(case.problem for case in group.cases))
        rows = []
        for candidate in self.candidates if group.cases else ():
            cells = [self.score(candidate, [c for c in group.cases if c.problem == name]) for name in names]
            rows.append((candidate.words, *cells))
        note = "Medians over the seeds; losses were what the search minimised."
        return Table(f"Test scores on {group.words}", ("candidate", *names), rows, note)

    def periods(self) -> Table:
        """What the periods of the metric cost and bring, each on its own."""
        rows, default = [], self.candidates[0]
        for other in periods() if self.timed else ():
            own, known = ([self.run(c, case) for case in self.timed] for c in (other, default))
            losses = np.subtract(self.gains(other, self.timed), self.gains(default, self.timed))
            seconds = [math.log(a.seconds / b.seconds) for a, b in zip(own, known, strict=True)]
            rows.append((other.words, resampled(losses, np.mean).text(told), told(float(np.mean(seconds)))))
        note = (
            f"Of today's defaults, geometric means over {many(len(self.timed), 'run')} on {self.groups[_UNSEEN].words}."
        )
        return Table("Periods of the metric", ("period", "x training loss", "x seconds of a median step"), rows, note)

    def score(self, candidate: Candidate, cases: Sequence[Case]) -> str:
        measure = problems.get(cases[0].problem).task.measure
        return score_form(measure)(median(self.run(candidate, case).score for case in cases))

    # sentences

    def sentences(self) -> list[str]:
        if not finished(self.study):
            return [f"Nothing can be said: {NONE}."]
        cases, settings = self.search.cases, self.search.settings
        head = (
            f"{many(len(finished(self.study)), 'trial')}, each trained on {len(cases)} cases for "
            f"{settings.steps} steps of at most {settings.batch} samples out of {settings.samples}, rates falling "
            "linearly to zero. "
            "The objective is the mean logarithm of the final training loss over that of the best Adam (rates "
            f"{', '.join(f'{lr:g}' for lr in settings.lrs)}) of the same seed and as many steps."
        )
        groups = self.groups[_UNSEEN:]
        return [head, *(self.sentence(candidate, group) for candidate in self.candidates[1:] for group in groups)]

    def sentence(self, candidate: Candidate, group: Group) -> str:
        """Whether a candidate is certain to be better where the search has not looked."""
        if not group.cases:
            return f"{candidate.words.capitalize()} has not been checked on {group.words} yet."
        found = self.difference(candidate, group)
        certain = (
            "lower for certain"
            if found.high < 0
            else "higher for certain"
            if found.low > 0
            else "not certain to differ"
        )
        return (
            f"**{candidate.words.capitalize()}** on {group.words}: losses of {found.text(told)} times those of today's "
            f"defaults, {certain} (mean over {len(group.cases)} runs, interval of 95 %)."
        )

    def to_dict(self, command: str) -> dict[str, Any]:
        """For JSON."""
        trials = [
            {"number": t.number, "state": t.state.name, "value": t.value, "params": t.params}
            for t in self.study.get_trials(deepcopy=False)
        ]
        checks = [
            {"candidate": c.words, "group": g.words, **asdict(case), **asdict(self.run(c, case))}
            for c in self.candidates for g in self.groups for case in g.cases
        ]  # fmt: skip
        return {
            "command": command,
            "environment": self.environment(),
            "sentences": self.sentences(),
            "importances": importances(self.study),
            "trials": trials,
            "checks": checks,
        }

    def environment(self) -> dict[str, Any]:
        """Where the first run was made."""
        paths = sorted((self.search.folder / "runs").glob("*.json"))
        return json.loads(paths[0].read_text())["environment"] if paths else {}


_TOP, _SHOWN = 10, 5
_UNSEEN = 1
"""The first group of problems that the search has not seen."""


def told(value: float | None) -> str:
    """A logarithm of losses as their ratio."""
    return "" if value is None else f"{math.exp(value):.3g}"


def middle(values: Sequence[Any]) -> str:
    """Median and quartiles; of words the most frequent."""
    if not values or isinstance(values[0], str):
        return mode(values) if values else ""
    low, half, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{half:.3g} ({low:.3g} to {high:.3g})"


def plain(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"


def _name(trial: FrozenTrial) -> str:
    return "today's defaults" if trial.number == DEFAULT else f"{trial.number}"
