"""Neural ODEs and flows: OCNOpt without a learning rate against Adam and SGD, each swept over learning rates.

    python benchmarks/continuous.py --jobs 2 --write docs/results/continuous.md

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

from colours import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from study import Study
from tables import OURS

from ocnopt_lab.errors import writing
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.runs.axes import plain
from ocnopt_lab.studies.curves import draw, median_curves
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.summaries import Result, at_once, by_method, cell, heading, machines, steps_of

TARGET = 0.6
"""Share of Adam's time in which OCNOpt is to reach Adam's final loss."""
_RULE = "|---|---:|---:|---:|---:|---:|---:|---:|"


@dataclass(frozen=True, kw_only=True)
class Continuous(Study):
    """Neural ODEs and flows."""

    SCRIPT = "continuous"
    SECTION = "continuous"

    problems: tuple[str, ...] = (
        *("spiral", "lotka-volterra", "van-der-pol", "articularywordrecognition"),
        *("flow-moons", "flow-circles"),
    )
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    epochs: int | None = 8
    adam_lrs: tuple[float, ...] = (3e-3, 1e-2, 3e-2)
    sgd_lrs: tuple[float, ...] = (1e-1, 3e-1)
    """Learning rates of SGD with momentum 0.9; each falls linearly to zero."""
    out: Path = Path("runs/continuous")

    def methods(self) -> dict[str, OptimizerConfig]:
        sgd = {f"sgd-{lr:g}": OptimizerConfig("sgd", lr=lr, momentum=0.9) for lr in self.sgd_lrs}
        return {OURS: OptimizerConfig(), **super().methods(), **sgd}

    def text(self, results: Sequence[Result], runs: Sequence[Run]) -> str:
        note = (
            f"Medians over {len(self.seeds)} seeds, {at_once(self.jobs)}. Losses are over the whole training set after "
            "the last epoch; seconds are those spent in training steps. Evaluations of the vector field: in a forward "
            "pass and its backward pass, at the end of training. Memory is the peak of the process. All rates fall "
            "linearly to zero. Time to Adam's loss: when OCNOpt's mean loss over a group of steps first lay below the "
            "final training loss of the best Adam of the same seed, as a share of all of that Adam's seconds."
        )
        blocks = [f"```bash\n{self.command()}\n```", note, machines(results)]
        shares: list[float] = []
        for problem in dict.fromkeys(result.problem for result in results):
            own = {(run.method, run.seed): run for run in runs if run.problem == problem and run.summary() is not None}
            methods = by_method(results, problem)
            blocks += [f"**{problem}**", table(methods, own), *verdict(methods, own, shares)]
        blocks.append(overall(shares))
        done = [run for run in runs if run.summary() is not None]
        draw(self.out / "curves.png", done, style)
        draw_evaluations(self.out / "evaluations.png", done)
        return "\n\n".join(blocks) + "\n"


def draw_evaluations(path: Path, runs: Sequence[Run]) -> None:
    """Evaluations of the field in one step, medians over the seeds, against steps; a panel per problem that counts."""
    counting = [run for run in runs if evaluations(run, "forward")]
    names = list(dict.fromkeys(run.problem for run in counting))
    if not names:
        return
    figure = Figure(figsize=(11, 0.8 + 3 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, sharex="row", squeeze=False)
    for line, problem in zip(panels, names, strict=True):
        for axis, direction in zip(line, ("forward", "backward"), strict=True):
            panel(axis, direction, [run for run in counting if run.problem == problem])
        line[0].set_ylabel(f"{problem}\nevaluations in a step")
    lines = {line.get_label(): line for axis in panels.flat for line in axis.get_lines()}
    figure.legend(handles=[*lines.values()], loc="outside lower center", ncols=6, frameon=False)
    with writing(path):
        figure.savefig(path, dpi=130)


def panel(axis: Axes, direction: str, runs: Sequence[Run]) -> None:
    """A line per method."""
    key = f"nfe_{direction}"
    for method, curve in median_curves(runs, ("step", key)).items():
        axis.plot(curve["step"], curve[key], label=method, **style(method))
    axis.set(xlabel="step", title=direction, ylim=(0, None))
    plain(axis)


def table(methods: dict[str, list[Result]], runs: dict[tuple[str, int], Run]) -> str:
    """One line per method."""
    measure, lines = next(iter(methods.values()))[0].measure, []
    for name, results in methods.items():
        own = [runs[name, result.seed] for result in results]
        forward, backward = (median(evaluations(run, key) for run in own) for key in ("forward", "backward"))
        cells = [
            name,
            f"{median(result.train_loss for result in results):.4g}",
            cell(measure, median(result.test_score for result in results)),
            f"{median(result.seconds for result in results):.1f}",
            f"{1000 * median(result.seconds_per_step for result in results):.1f}",
            f"{forward:.0f} + {backward:.0f}" if forward else "",
            f"{median(memory(run) for run in own):.0f}",
            f"{sum(result.diverged for result in results)} of {len(results)}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    columns = ["method", "training loss", heading(measure), "seconds", "ms/step", "evaluations", "MB", "diverged"]
    return "\n".join(["| " + " | ".join(columns) + " |", _RULE, *lines])


def evaluations(run: Run, direction: str) -> float:
    """Of the vector field in the last group of steps that tells; 0 where none does."""
    told = [row[f"nfe_{direction}"] for row in steps_of(run) if f"nfe_{direction}" in row]
    return told[-1] if told else 0.0


def memory(run: Run) -> float:
    """Peak in MB."""
    summary = run.summary()
    return math.nan if summary is None else summary["peak_memory_mb"]


def verdict(methods: dict[str, list[Result]], runs: dict[tuple[str, int], Run], shares: list[float]) -> list[str]:
    """OCNOpt against the best of Adam's rates in a sentence; its share of Adam's time goes to ``shares``."""
    adams = {name: results for name, results in methods.items() if name.startswith("adam")}
    if OURS not in methods or not adams:
        return []
    best = min(adams, key=lambda name: median(result.train_loss for result in adams[name]))
    theirs = {result.seed: result for result in adams[best]}
    pairs = [(ours, theirs[ours.seed]) for ours in methods[OURS] if ours.seed in theirs]
    share = median(reached(runs[OURS, ours.seed], adam.train_loss) / adam.seconds for ours, adam in pairs)
    step = median(ours.seconds_per_step / adam.seconds_per_step for ours, adam in pairs)
    size = median(memory(runs[OURS, ours.seed]) / memory(runs[best, ours.seed]) for ours, _ in pairs)
    lower = sum(ours.train_loss < adam.train_loss for ours, adam in pairs)
    shares.append(share)
    time = f"after **{share:.2f}** of its time" if math.isfinite(share) else "**never** in the median"
    return [
        f"Against {best}, seed by seed: its final loss is reached {time}; lower training loss in the end in {lower} of "
        f"{len(pairs)} seeds; time per step {step:.2f} times, memory {size:.2f} times Adam's."
    ]


def reached(run: Run, loss: float) -> float:
    """Seconds after which a group of steps first had no larger a mean loss; infinite if none had."""
    return next((row["seconds"] for row in steps_of(run) if row["loss"] <= loss), math.inf)


def overall(shares: Sequence[float]) -> str:
    met = sum(share <= TARGET for share in shares)
    return f"On **{met} of {len(shares)}** problems OCNOpt needs at most {TARGET} of the time of the best Adam."


if __name__ == "__main__":
    sys.exit(Continuous.main(__doc__))
