"""Games of layers that share a stage: cooperative against feedback Nash, no game and Adam, bandit against alignments.

    python benchmarks/coalitions.py --jobs 2 --write docs/results/game.md

Every run is `ocnopt train` in a process of its own; all methods of a seed run before the next seed begins.
What is finished is kept: after Ctrl-C the same command goes on where it stopped.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from colours import style
from scipy.stats import bootstrap
from study import Study

from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.studies.curves import draw
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.summaries import Result, at_once, by_method, cell, heading, machines, number, steps_of

GAMES = {
    "nash-last": ("feedback-nash", "last"),
    "cooperative-first": ("cooperative", "first"),
    "cooperative-last": ("cooperative", "last"),
    "cooperative-bandit": ("cooperative", "bandit"),
}
PAIRS = (
    ("cooperative-last", "nash-last"),
    ("cooperative-bandit", "cooperative-first"),
    ("cooperative-bandit", "cooperative-last"),
    ("cooperative-bandit", "no-game"),
    ("no-game", "best-adam"),
)
"""Whose losses are compared, seed by seed."""

_RULE = "|---|---:|---:|---:|---:|---:|---:|"


@dataclass(frozen=True, kw_only=True)
class Coalitions(Study):
    """Games of layers that share a stage."""

    SCRIPT = "coalitions"
    SECTION = "game"

    problems: tuple[str, ...] = ("resnet-small", "inception-small")
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    epochs: int | None = 1
    eval_samples: int | None = 10000
    train_samples: int | None = 30000
    out: Path = Path("runs/coalitions")

    def methods(self) -> dict[str, OptimizerConfig]:
        games = {name: OptimizerConfig(game=game, alignment=at) for name, (game, at) in GAMES.items()}
        return {**super().methods(), "no-game": OptimizerConfig(), **games}

    def text(self, results: Sequence[Result], runs: Sequence[Run]) -> str:
        trained, scored = self.train_samples or "all", self.eval_samples or "all"
        note = (
            f"Medians over {len(self.seeds)} seeds, {at_once(self.jobs)}; losses and accuracies after {self.epochs} "
            f"epoch(s) of {trained} samples, on {scored} of each set. Seconds are those spent in training steps. "
            "At equal seconds: the mean loss of the batches just before the time at which the fastest method was done. "
            "All rates fall linearly to zero. Below each table: differences of the final training loss, seed by seed, "
            "their median and a bootstrap interval of 95 %; negative where the first method is better."
        )
        blocks = [f"```bash\n{self.command()}\n```", note, machines(results)]
        for problem in dict.fromkeys(result.problem for result in results):
            methods = by_method(results, problem)
            own = [run for run in runs if run.problem == problem]
            blocks += [f"**{problem}**", table(methods, own), comparisons(methods)]
        draw(self.out / "curves.png", [run for run in runs if run.summary() is not None], style)
        return "\n\n".join(blocks) + "\n"


def table(methods: dict[str, list[Result]], runs: Sequence[Run]) -> str:
    """One line per method."""
    seconds = min(median(result.seconds for result in results) for results in methods.values())
    lines, measure = [], next(iter(methods.values()))[0].measure
    for name, results in methods.items():
        then = [loss_at(run, seconds) for run in runs if run.method == name and run.summary() is not None]
        cells = [
            name,
            number(median(result.train_loss for result in results)),
            number(median(then)),
            cell(measure, median(result.test_score for result in results)),
            f"{median(result.seconds for result in results):.0f}",
            f"{1000 * median(result.seconds_per_step for result in results):.1f}",
            f"{sum(result.diverged for result in results)} of {len(results)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    header = f"| method | training loss | at equal seconds | {heading(measure)} | seconds | ms/step | diverged |"
    return "\n".join([header, _RULE, *lines])


def loss_at(run: Run, seconds: float) -> float:
    """Mean loss of the last group of steps that was done by then, infinite before the first."""
    done = [row["loss"] for row in steps_of(run) if row["seconds"] <= seconds]
    return done[-1] if done else math.inf


def comparisons(methods: dict[str, list[Result]]) -> str:
    """A line per pair for which all runs are there."""
    named = dict(methods)
    adams = [results for name, results in methods.items() if name.startswith("adam")]
    if adams:
        named["best-adam"] = min(adams, key=lambda results: median(result.train_loss for result in results))
    lines = [compared(pair, named) for pair in PAIRS if all(name in named for name in pair)]
    return "\n".join(line for line in lines if line)


def compared(pair: tuple[str, str], methods: dict[str, list[Result]]) -> str:
    """The paired differences in a sentence; nothing where a run is missing or has diverged."""
    first, second = ({result.seed: result.train_loss for result in methods[name]} for name in pair)
    seeds = sorted(first.keys() & second.keys())
    differences = np.array([first[seed] - second[seed] for seed in seeds])
    if len(seeds) < 3 or not np.isfinite(differences).all():
        return ""
    interval = bootstrap((differences,), np.median, method="percentile", rng=0).confidence_interval
    told = "lower" if interval.high < 0 else "higher" if interval.low > 0 else "no different"
    middle = np.median(differences)
    return (
        f"- {pair[0]} against {pair[1]}: {middle:+.4f} ({interval.low:+.4f} to {interval.high:+.4f}), "
        f"better in {int((differences < 0).sum())} of {len(seeds)} seeds: **{told}**."
    )


if __name__ == "__main__":
    sys.exit(Coalitions.main(__doc__))
