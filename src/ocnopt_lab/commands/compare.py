"""`ocnopt compare`: optimizers at their best learning rates, and untuned, with the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ocnopt_lab.errors import LabError
from ocnopt_lab.studies import comparison, methods
from ocnopt_lab.studies.experiment import Experiment
from ocnopt_lab.studies.results import Results
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.summaries import Result


@dataclass(frozen=True, kw_only=True)
class Compare(Experiment):
    """Compare optimizers over seeds, the learning rate swept for each of them; the same command goes on after Ctrl-C.

    Time to the best loss of any baseline, final losses and scores, seconds and memory, as tables and pictures.
    """

    KIND = "compare"

    optimizers: str = "ocnopt,ekfac-off,adamw,sgd,muon"
    """Methods, separated by commas: the names of `ocnopt train --optimizer.name`, and ocnopt-METRIC and METRIC-off:
    OCNOpt with this metric, with feedback and without."""
    sweep: Literal["lr", "none"] = "lr"
    """lr: each method at all rates of its grid. none: each at its default."""
    target: float | None = None
    """A training loss to reach, beside the lowest that any baseline ends with."""

    def chosen(self) -> list[methods.Method]:
        """The methods in the order given."""
        names = [name.strip() for name in self.optimizers.split(",") if name.strip()]
        if not names:
            raise LabError("--optimizers names no method; give at least one.")
        return [methods.get(name) for name in dict.fromkeys(names)]

    def runs_of(self, problem: str, seed: int) -> Sequence[Run]:
        return [
            Run(
                method.name,
                self.config(problem, method.at(rate), seed),
                self.folder / f"{problem}-{method.name}-{rate:g}-{seed}",
                rate,
            )
            for method in self.chosen()
            for rate in (method.rates if self.sweep == "lr" else (method.default_rate,))
        ]

    def results(self, results: Sequence[Result], runs: Sequence[Run]) -> Results:
        study = comparison.Comparison(self.chosen(), results, runs, self.target)
        return Results(
            self.KIND,
            self.command(),
            [self.circumstances(), *study.sentences()],
            study.results,
            study.tables(),
            study.draw(self.folder),
        )
