"""`ocnopt robustness`: how wide the range of usable learning rates is, with feedback and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ocnopt.curvature import TABLE as CURVATURES
from ocnopt.options import SEARCHES, rate_of
from ocnopt_lab import problems
from ocnopt_lab.errors import LabError
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.studies import robustness
from ocnopt_lab.studies.experiment import Experiment
from ocnopt_lab.studies.results import Results
from ocnopt_lab.studies.robustness import OFF, ON
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.summaries import Result

_DAMPINGS = (1e-4, 1e-3, 1e-2)


@dataclass(frozen=True, kw_only=True)
class Robustness(Experiment):
    """Train over a grid of learning rates and one more knob, with feedback and without; the same command goes on.

    Tells the width, in decades, of the range of rates within 1 % of the best score, and draws heat maps.
    """

    KIND = "robustness"

    knob: Literal["batch-size", "damping"] = "batch-size"
    """What is varied beside the rate."""
    values: tuple[float, ...] = ()
    """Values of the knob. Left out: half, once and twice the problem's batch size; dampings of 1e-4, 1e-3 and 1e-2."""
    rates: int = 9
    """Number of learning rates, evenly spaced on a logarithmic scale."""
    decades: float = 4.0
    """From the lowest rate to the highest."""
    center: float | None = None
    """The middle rate. Left out: the default of the search, or of the metric at a fixed step."""
    curvature: str = "ekfac"
    """The metric."""
    search: Literal["bounded", "model", "fixed"] = "bounded"
    """bounded: the rates are the longest step that the search may propose. model: they are multipliers of its step.
    fixed: they are the step."""

    def grid(self) -> list[float]:
        """The rates, to three digits."""
        if self.rates < 2 or self.decades <= 0:
            raise LabError(
                f"--rates is {self.rates} and --decades {self.decades:g}; 2 rates and more than 0 are needed."
            )
        if self.curvature not in CURVATURES:
            raise LabError(f"There is no metric {self.curvature!r}; choose one of {', '.join(CURVATURES)}.")
        default = rate_of(SEARCHES[self.search](), CURVATURES[self.curvature]())
        exponents = np.linspace(-self.decades / 2, self.decades / 2, self.rates)
        return [float(f"{x:.3g}") for x in (self.center or default) * 10**exponents]

    def knobs(self, problem: str) -> Sequence[float]:
        """Values of the knob on a problem."""
        size = problems.get(problem).batch_size
        default = (max(1, size // 2), size, 2 * size) if self.knob == "batch-size" else _DAMPINGS
        return self.values or default

    def runs_of(self, problem: str, seed: int) -> Sequence[Run]:
        return [
            self.one(problem, seed, method, rate, knob)
            for knob in self.knobs(problem)
            for rate in self.grid()
            for method in (ON, OFF)
        ]

    def one(self, problem: str, seed: int, method: str, rate: float, knob: float) -> Run:
        """A run at one point of the grid."""
        feedback = 1.0 if method == ON else 0.0
        optimizer = OptimizerConfig(curvature=self.curvature, search=self.search, feedback=feedback, lr=rate)
        if self.knob == "damping":
            config = self.config(problem, replace(optimizer, damping=knob), seed)
        else:
            config = replace(self.config(problem, optimizer, seed), batch_size=round(knob))
        path = self.folder / f"{problem}-{method}-{rate:g}-{self.knob}-{knob:g}-{seed}"
        return Run(method, config, path, rate, knob)

    def results(self, results: Sequence[Result], runs: Sequence[Run]) -> Results:
        study = robustness.Robustness(self.knob.replace("-", " "), results)
        pictures = study.draw(self.folder)
        return Results(
            self.KIND, self.command(), [self.circumstances(), *study.sentences()], results, study.tables(), pictures
        )
