"""How wide the usable ranges of learning rates are, under three searches, with feedback and without."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import mean, median

import numpy as np
from numpy.typing import NDArray
from results_parts import NOTHING, blocks, circumstances
from results_studies import ROBUST, SEARCHES, complete

from ocnopt_lab.studies.experiment import Experiment
from ocnopt_lab.studies.results import Table
from ocnopt_lab.studies.robustness import OFF, ON, Grid, usable, width
from ocnopt_lab.studies.statistics import Estimate, over_seeds

Studies = Mapping[str, Experiment]


class Widths:
    """Of one problem under several searches, judged by the best score of all of them.

    lines: search → scores (2, K, R, S) with feedback and without.
    """

    def __init__(self, problem: str, grids: Mapping[str, Grid]) -> None:
        self.problem, self.grids = problem, grids
        self.measure = next(iter(grids.values())).measure
        self.seeds = sorted(set.intersection(*(set(grid.seeds) for grid in grids.values())))

    def scores(self, search: str, method: str) -> NDArray:
        """(K, R, S) of the seeds that all have."""
        grid = self.grids[search]
        kept = [grid.seeds.index(seed) for seed in self.seeds]
        return grid.scores[(ON, OFF).index(method)][..., kept]

    def decades(self, search: str, method: str, seeds: NDArray | slice = slice(None)) -> float:
        """Mean over the values of the knob of the width within 1 % of the best of all searches, with and without."""
        found = []
        for k in range(len(self.grids[search].knobs)):
            lines = [np.median(self.scores(s, m)[k][:, seeds], -1) for s in self.grids for m in (ON, OFF)]
            best = float(np.max(lines) if self.measure.best is max else np.min(lines))
            own = np.median(self.scores(search, method)[k][:, seeds], -1)
            found.append(
                width(usable(own, best, self.measure), self.grids[search].step) if math.isfinite(best) else 0.0
            )
        return mean(found)

    def gain(self, search: str, over: tuple[str, str]) -> Estimate:
        """Decades that feedback under one search has over another method."""
        return over_seeds(len(self.seeds), lambda s: self.decades(search, ON, s) - self.decades(*over, s))


def widths_of(studies: Studies) -> list[Widths]:
    """Of the problems for which all searches have a complete seed."""
    found = []
    for problem in ROBUST:
        results = {search: complete(studies[f"robustness-{problem}-{search}"]) for search in SEARCHES}
        grids = {search: Grid(problem, own) for search, own in results.items() if own}
        if len(grids) == len(SEARCHES) and all(grid.seeds for grid in grids.values()):
            found.append(Widths(problem, grids))
    return [one for one in found if one.seeds]


def robustness(studies: Studies) -> str:
    found = widths_of(studies)
    if not found:
        return NOTHING
    cells = [(search, method) for search in SEARCHES for method in (OFF, ON)]
    rows = [(x.problem, *(f"{x.decades(*cell):.2f}" for cell in cells), *gains(x)) for x in found]
    columns = ("problem", *(f"{search}, {'with' if method == ON else 'off'}" for search, method in cells))
    more = ("feedback at a fixed step", "bounded over plain metric")
    note = (
        "Decades of learning rates within 1 % of the best score of all six columns, means over the values of the batch "
        "size. The last two columns are differences with intervals over the seeds: fixed, with minus off; bounded, "
        "with minus fixed, off."
    )
    table = Table("Widths of the usable range", (*columns, *more), rows, note)
    own = [study for name, study in studies.items() if name.startswith("robustness-")]
    return blocks([verdict(found), table.markdown(), *circumstances(own)])


def gains(x: Widths) -> list[str]:
    return [x.gain(*pair).text(lambda decades: f"{decades:+.2f}") for pair in PAIRS.values()]


PLAIN = ("fixed", OFF)
PAIRS = {"at a fixed step": ("fixed", PLAIN), 'with search="bounded"': ("bounded", PLAIN)}
"""Words → (search with feedback, what it is compared with): EKFAC as it is known."""


def verdict(found: Sequence[Widths]) -> str:
    told = []
    for words, (search, over) in PAIRS.items():
        won = [x.decades(search, ON) - x.decades(*over) for x in found]
        met = sum(decades >= 0.5 - 1e-9 for decades in won)
        told.append(
            f"{words}, feedback wins at least half a decade on **{met} of {len(found)}** (median {median(won):+.2f})"
        )
    bare = [x.decades("bounded", ON) - x.decades("bounded", OFF) for x in found]
    last = f"Under the bounded search itself, feedback changes the width by {median(bare):+.2f} decades in the median."
    better, points = (sum(column) for column in zip(*map(beyond, found), strict=True))
    far = (
        f"At a fixed step above the rate that is best without feedback, where training begins to go astray, the median "
        f"score with feedback is the better one at **{better} of {points}** points of the grids."
    )
    return f"Against the same metric (EKFAC) without feedback and at a fixed step: {'; '.join(told)}. {last} {far}"


def beyond(x: Widths) -> tuple[int, int]:
    """How often feedback scores better at a fixed step above the twin's best rate, and at how many points."""
    better = points = 0
    sign = 1 if x.measure.best is max else -1
    medians = (np.median(x.scores("fixed", method), -1) for method in (ON, OFF))
    for on, off in zip(*(np.nan_to_num(sign * found, nan=-np.inf) for found in medians), strict=True):
        above = slice(int(np.flatnonzero(off == off.max())[-1]) + 1, None)
        better += int((on[above] > off[above]).sum())
        points += len(on[above])
    return better, points
