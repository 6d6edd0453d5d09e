"""OCNOpt without a learning rate against Adam swept over three, after a few epochs of each problem.

    python benchmarks/three_epochs.py --jobs 2 --write docs/benchmarks.md

Every run is `ocnopt train` in a process of its own; all methods of a seed run before the next seed begins.
What is finished is kept: after Ctrl-C the same command goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study import Study
from tables import page

from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.summaries import Result


@dataclass(frozen=True, kw_only=True)
class ThreeEpochs(Study):
    """OCNOpt without a learning rate against Adam swept over three."""

    SCRIPT = "three_epochs"
    SECTION = "three-epochs"

    problems: tuple[str, ...] = ("fashion-mnist-cnn", "mnist-fcn", "cifar10-cnn")
    epochs: int | None = 3
    out: Path = Path("runs/three-epochs")

    def methods(self) -> dict[str, OptimizerConfig]:
        return {"ocnopt": OptimizerConfig(), **super().methods()}

    def text(self, results: Sequence[Result], runs: Sequence[Run]) -> str:
        return page(results, len(self.seeds), self.command(), self.jobs)


if __name__ == "__main__":
    sys.exit(ThreeEpochs.main(__doc__))
