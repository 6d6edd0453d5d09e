"""What `ocnopt robustness` tells: widths of the usable range of learning rates, with feedback and without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ocnopt_lab.studies import heat
from ocnopt_lab.studies.results import Picture, Table
from ocnopt_lab.studies.statistics import Estimate, over_seeds
from ocnopt_lab.studies.summaries import Result, many
from ocnopt_lab.studies.tables import score_form
from ocnopt_lab.tasks import Measure

ON, OFF = "feedback", "off"
WITHIN = 0.01
PICTURE = "robustness.png"


def usable(scores: NDArray, best: float, measure: Measure) -> NDArray:
    """Which scores are within 1 % of the best: a hundredth of a share, 1 % of what is no share."""
    margin = WITHIN if measure.format.endswith("%") else WITHIN * abs(best)
    return scores >= best - margin if measure.best is max else scores <= best + margin


def width(fits: NDArray, step: float) -> float:
    """Decades of the longest run of usable rates, each of which stands for `step` decades around it."""
    longest = current = 0
    for fit in fits:
        current = current + 1 if fit else 0
        longest = max(longest, current)
    return longest * step


class Grid:
    """Scores of one problem: (2 methods, K knobs, R rates, S seeds), of the seeds for which all are there."""

    def __init__(self, problem: str, results: Sequence[Result]) -> None:
        found: dict[tuple[str, float, float], dict[int, Result]] = {}
        for x in results:
            if x.problem == problem and x.rate is not None:
                found.setdefault((x.method, float(x.knob or 0), x.rate), {})[x.seed] = x
        self.problem, self.measure = problem, next(x for x in results if x.problem == problem).measure
        self.knobs = sorted({knob for _, knob, _ in found})
        self.rates = sorted({rate for _, _, rate in found})
        points = [found.get(key, {}) for key in product((ON, OFF), self.knobs, self.rates)]
        self.seeds = sorted(set.intersection(*(set(point) for point in points)))
        shape = (2, len(self.knobs), len(self.rates))
        self.scores = np.array([[own[s].test_score for s in self.seeds] for own in points]).reshape(*shape, -1)
        self.diverged = np.array([sum(own[s].diverged for s in self.seeds) for own in points]).reshape(shape)
        self.step = math.log10(self.rates[-1] / self.rates[0]) / (len(self.rates) - 1)

    def medians(self, seeds: NDArray | slice = slice(None)) -> NDArray:
        """(2, K, R)."""
        return np.median(self.scores[..., seeds], axis=-1)

    def best(self, line: NDArray) -> float:
        """Of both methods together (2, R): a method that is poor everywhere is not wide."""
        return float(line.max() if self.measure.best is max else line.min())

    def widths(self, seeds: NDArray | slice = slice(None)) -> NDArray:
        """Decades (K, 2): per value of the knob, with feedback and without. No finite score is no width."""
        lines = [self.medians(seeds)[:, k] for k in range(len(self.knobs))]
        return np.array([[self._width(own, self.best(line)) for own in line] for line in lines])

    def _width(self, scores: NDArray, best: float) -> float:
        return width(usable(scores, best, self.measure), self.step) if math.isfinite(best) else 0.0

    def gain(self) -> Estimate:
        """Decades won by feedback, the mean over the knob, with the interval over the seeds."""

        def decades(seeds: NDArray) -> float:
            found = self.widths(seeds)
            return float((found[:, 0] - found[:, 1]).mean())

        return over_seeds(len(self.seeds), decades)


class Robustness:
    """All problems of a study; those without a seed for which all runs are there are left for later."""

    def __init__(self, knob: str, results: Sequence[Result]) -> None:
        self.knob = knob
        grids = [Grid(name, results) for name in dict.fromkeys(result.problem for result in results)]
        self.grids, self.unfinished = [g for g in grids if g.seeds], [g for g in grids if not g.seeds]

    def sentences(self) -> list[str]:
        waiting = [f"**{grid.problem}**: no seed is complete yet." for grid in self.unfinished]
        return [*map(self._sentence, self.grids), *waiting]

    def _sentence(self, grid: Grid) -> str:
        on, off = grid.widths().mean(axis=0)
        return (
            f"**{grid.problem}**: with feedback {on:.2f} decades of learning rates are within 1 % of the best score, "
            f"without {off:.2f} (means over the values of the {self.knob}). Ratio: **{_ratio(on, off)}**; difference: "
            f"{grid.gain().text(lambda decades: f'{decades:+.2f}')} decades."
        )

    def tables(self) -> list[Table]:
        return [table for grid in self.grids for table in (self._widths(grid), self._scores(grid))]

    def _widths(self, grid: Grid) -> Table:
        form, medians = score_form(grid.measure), grid.medians()
        rows = [
            (
                f"{knob:g}",
                *(form(grid.best(own[None])) for own in medians[:, k]),
                *(f"{x:.2f}" for x in (on, off)),
                _ratio(on, off),
            )
            for k, (knob, (on, off)) in enumerate(zip(grid.knobs, grid.widths(), strict=True))
        ]
        columns = (self.knob, "best with feedback", "best without", "decades with", "decades without", "ratio")
        note = (
            f"Within 1 % of the best of both, median {grid.measure.label} over {many(len(grid.seeds), 'seed')}; the "
            f"longest range without a gap, in a grid of {grid.step:.2f} decades from rate to rate."
        )
        return Table(f"{grid.problem}: width of the usable range of learning rates", columns, rows, note)

    def _scores(self, grid: Grid) -> Table:
        """Every point of the grid."""
        form, medians = score_form(grid.measure), grid.medians()
        rows = [
            (
                f"{knob:g}",
                f"{rate:g}",
                *(form(x) for x in medians[:, k, r]),
                *(f"{n}" for n in grid.diverged[:, k, r]),
            )
            for k, knob in enumerate(grid.knobs)
            for r, rate in enumerate(grid.rates)
        ]
        columns = (self.knob, "rate", "with feedback", "without", "diverged with", "diverged without")
        return Table(f"{grid.problem}: median {grid.measure.label} over the grid", columns, rows)

    def draw(self, folder: Path) -> list[Picture]:
        if not self.grids:
            return []
        maps = [heat.Maps(g.problem, g.measure, self.knob, g.knobs, g.rates, g.medians()) for g in self.grids]
        heat.draw(folder / PICTURE, maps)
        caption = "Scores over learning rates with feedback, without, and what feedback adds. Grey: diverged."
        return [Picture(PICTURE, caption)]


def _ratio(on: float, off: float) -> str:
    """Of two widths; none where both are zero."""
    if off:
        return f"{on / off:.2f}"
    return "∞" if on else "none"
