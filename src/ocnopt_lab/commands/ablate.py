"""`ocnopt ablate`: what the feedback adds, option by option."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ocnopt_lab.errors import LabError
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.studies import ablation
from ocnopt_lab.studies.ablation import Axis, Setting
from ocnopt_lab.studies.experiment import Experiment
from ocnopt_lab.studies.results import Results
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.summaries import Result


@dataclass(frozen=True, kw_only=True)
class Ablate(Experiment):
    """Train with feedback and without, seed by seed, for one option after another; the same command goes on.

    Every option is varied alone, all others are those of the base. The twin without feedback has the same options.
    """

    KIND = "ablate"

    axes: tuple[Axis, ...] = tuple(ablation.AXES)
    """What is varied: the metric, the value, the roll-out, β of the gradient terminal factor, κ of the feedback, the
    samples of a batch that it looks at."""
    curvature: str = "ekfac"
    """The metric of the base."""
    search: Literal["bounded", "model", "fixed"] = "bounded"
    """How far the base steps."""
    lr: float | None = None
    """Learning rate, or the multiplier of the search's step. Left out: the default of each metric."""

    def base(self) -> OptimizerConfig:
        """All options that are varied are given, so that equal optimizers are equal here."""
        return replace(ablation.BASE, curvature=self.curvature, search=self.search, lr=self.lr)

    def settings(self) -> list[Setting]:
        """In the order of the axes."""
        if not self.axes:
            raise LabError("--axes names nothing to vary; give at least one.")
        return [setting for axis in dict.fromkeys(self.axes) for setting in ablation.settings(axis, self.base())]

    def runs_of(self, problem: str, seed: int) -> Sequence[Run]:
        optimizers = dict.fromkeys(x for setting in self.settings() for x in (setting.optimizer, setting.twin))
        return [
            Run(name, self.config(problem, optimizer, seed), self.folder / f"{problem}-{name}-{seed}")
            for optimizer in optimizers
            for name in [ablation.name_of(optimizer, self.base())]
        ]

    def results(self, results: Sequence[Result], runs: Sequence[Run]) -> Results:
        study = ablation.Ablation(self.settings(), self.base(), results)
        pictures = study.draw(self.folder)
        return Results(
            self.KIND, self.command(), [self.circumstances(), *study.sentences()], results, study.tables(), pictures
        )
