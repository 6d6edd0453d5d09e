"""Fictitious players at large learning rates: a fixed step with and without an adversary on the state.

    python benchmarks/disturbance.py --jobs 2 --write docs/results/game.md

Every run is `ocnopt train` in a process of its own. What is finished is kept: after Ctrl-C the same command goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from study import Study
from tables import circumstances

from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.summaries import Result, by_method, number

VALUES = ("per-sample", "robust")


@dataclass(frozen=True, kw_only=True)
class Disturbance(Study):
    """A fixed step with and without an adversary on the state, over learning rates."""

    SCRIPT = "disturbance"
    SECTION = "disturbance"

    problems: tuple[str, ...] = ("digits-fcn",)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    adam_lrs: tuple[float, ...] = ()
    lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 2e-2)
    """Learning rates of OCNOpt's fixed step with the RMSprop metric."""
    epochs: int | None = 8
    out: Path = Path("runs/disturbance")

    def methods(self) -> dict[str, OptimizerConfig]:
        fixed = OptimizerConfig(curvature="rmsprop", search="fixed")
        return {f"{value}-{lr:g}": replace(fixed, value=value, lr=lr) for lr in self.lrs for value in VALUES}

    def text(self, results: Sequence[Result], runs: Sequence[Run]) -> str:
        note = "Training losses, the seeds in order, and in brackets their median."
        blocks = [f"```bash\n{self.command()}\n```", circumstances(results, self.jobs), note]
        for problem in dict.fromkeys(result.problem for result in results):
            blocks += [f"**{problem}**", self.table(by_method(results, problem))]
        return "\n\n".join(blocks) + "\n"

    def table(self, methods: dict[str, list[Result]]) -> str:
        """A line per learning rate, a column per value."""
        lines = [f"| learning rate | {' | '.join(VALUES)} |", "|---:|---|---|"]
        for lr in self.lrs:
            cells = [losses(methods.get(f"{value}-{lr:g}", [])) for value in VALUES]
            lines.append(f"| {lr:g} | " + " | ".join(cells) + " |")
        return "\n".join(lines)


def losses(results: Sequence[Result]) -> str:
    found = [result.train_loss for result in results]
    return f"{' '.join(map(number, found))} ({number(median(found))})" if found else "not yet"


if __name__ == "__main__":
    sys.exit(Disturbance.main(__doc__))
