"""Neural ODEs and flows: OCNOpt without a learning rate against Adam and SGD, each swept over learning rates.

    python benchmarks/continuous.py --problems spiral --seeds 0 1
    python benchmarks/continuous.py --problems --write docs/results/continuous.md

Every run is `ocnopt train` in a process of its own; all methods of a seed run before the next seed begins.
What is finished is kept: after Ctrl-C the same command goes on where it stopped. --write puts all that is finished
under --out into a page; with no name behind --problems nothing is run before.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from colours import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from study import Study
from tables import OURS

from ocnopt_lab.errors import writing
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.runs.axes import plain
from ocnopt_lab.studies.curves import draw, legend, median_curves
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.summaries import Result, by_method, cell, heading, machines, steps_of

TARGET = 0.6
"""Share of Adam's time in which OCNOpt is to reach Adam's final loss."""
_RULE = "|---|---:|---:|---:|---:|---:|---:|---:|"


@dataclass(frozen=True, kw_only=True)
class Size:
    """What is run of a problem: so much that all of it takes an hour or two of one core."""

    epochs: int
    train_samples: int | None = None
    eval_samples: int | None = None
    adam_lrs: tuple[float, ...] = (0.01, 0.03, 0.1)
    sgd_lrs: tuple[float, ...] = (0.3,)


_TRAJECTORIES, _FLOWS = Size(epochs=8), Size(epochs=4, eval_samples=2000)
_IMAGES = Size(epochs=2, train_samples=3000, eval_samples=1000, adam_lrs=(0.001, 0.003, 0.01), sgd_lrs=(0.1,))
_SERIES = Size(epochs=8, train_samples=700, eval_samples=700, adam_lrs=(0.003, 0.01, 0.03), sgd_lrs=(0.1,))
SIZES = {
    **dict.fromkeys(("spiral", "lotka-volterra", "van-der-pol"), _TRAJECTORIES),
    **dict.fromkeys(("mnist-ode-small", "fashion-mnist-ode-small"), _IMAGES),
    **dict.fromkeys(("spiral-noisy", "lotka-volterra-noisy", "van-der-pol-noisy"), _TRAJECTORIES),
    "charactertrajectories": replace(_SERIES, epochs=3),
    "articularywordrecognition": _SERIES,
    **dict.fromkeys(("flow-moons", "flow-circles", "flow-pinwheel", "flow-8gaussians"), _FLOWS),
}


@dataclass(frozen=True)
class Verdict:
    """OCNOpt against the best of Adam's rates, seed by seed, medians."""

    problem: str
    best: str
    share: float
    lower: int
    pairs: int
    step: float
    size: float

    @property
    def time(self) -> str:
        return f"{self.share:.2f}" if math.isfinite(self.share) else "never"

    @property
    def line(self) -> str:
        lower = f"{self.lower} of {self.pairs}"
        return f"| {self.problem} | {self.best} | {self.time} | {lower} | {self.step:.2f} | {self.size:.2f} |"


@dataclass(frozen=True, kw_only=True)
class Continuous(Study):
    """Neural ODEs and flows."""

    SCRIPT = "continuous"
    SECTION = "continuous"

    problems: tuple[str, ...] = tuple(SIZES)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    adam_lrs: tuple[float, ...] = ()
    """Learning rates of Adam; each falls linearly to zero. Left out: those of the problem."""
    sgd_lrs: tuple[float, ...] = ()
    """Learning rates of SGD with momentum 0.9; each falls linearly to zero. Left out: those of the problem."""
    out: Path = Path("runs/continuous")

    def plan(self) -> list[Run]:
        return [run for seed in self.seeds for name in self.problems for run in self.sized(name).runs_of(name, seed)]

    def sized(self, problem: str) -> Continuous:
        """With the sizes of the problem where none were given."""
        given = {name: getattr(self, name) for name in vars(SIZES["spiral"])}
        own = vars(SIZES.get(problem, SIZES["spiral"]))
        return replace(self, **{name: value or own[name] for name, value in given.items()})

    def runs_of(self, problem: str, seed: int) -> list[Run]:
        methods = {OURS: OptimizerConfig(), **super().methods(), **self.descents()}
        return [
            Run(method, self.config(problem, optimizer, seed), self.out / f"{problem}-{method}-{seed}")
            for method, optimizer in methods.items()
        ]

    def descents(self) -> dict[str, OptimizerConfig]:
        return {f"sgd-{lr:g}": OptimizerConfig("sgd", lr=lr, momentum=0.9) for lr in self.sgd_lrs}

    def report(self, console: Console, runs: Sequence[Run]) -> None:
        whole = replace(self, problems=tuple(dict.fromkeys((*SIZES, *self.problems))), seeds=Continuous.seeds)
        super().report(console, whole.plan() if self.write else runs)

    def text(self, results: Sequence[Result], runs: Sequence[Run]) -> str:
        note = (
            "Medians over seeds. Losses are after the last epoch; seconds are those in training steps. Evaluations "
            "of the field: in a forward and its backward pass, at the end. Memory is the peak of the process. All "
            "rates fall linearly to zero. Time to Adam's loss: when OCNOpt's mean loss over a group of steps first lay "
            "below the final training loss of the best Adam of the same seed, as a share of all of its seconds. Time "
            "per step is that of the runs, whose solvers take different numbers of steps."
        )
        blocks, verdicts = [f"```bash\n{Continuous().command()}\n```", note, machines(results)], []
        for problem in dict.fromkeys(result.problem for result in results):
            own = {(run.method, run.seed): run for run in runs if run.problem == problem and run.summary() is not None}
            methods = by_method(results, problem)
            blocks += [f"**{problem}** ({sizes_of([*own.values()])})", table(methods, own)]
            verdicts += verdict(problem, methods, own)
        blocks.insert(2, overall(verdicts))
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
    legend(figure)
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


def verdict(problem: str, methods: dict[str, list[Result]], runs: dict[tuple[str, int], Run]) -> list[Verdict]:
    """Nothing where one of the two has not run."""
    adams = {name: results for name, results in methods.items() if name.startswith("adam")}
    if OURS not in methods or not adams:
        return []
    best = min(adams, key=lambda name: median(result.train_loss for result in adams[name]))
    theirs = {result.seed: result for result in adams[best]}
    pairs = [(ours, theirs[ours.seed]) for ours in methods[OURS] if ours.seed in theirs]
    if not pairs:
        return []
    found = Verdict(
        problem,
        best,
        median(reached(runs[OURS, ours.seed], adam.train_loss) / adam.seconds for ours, adam in pairs),
        sum(ours.train_loss < adam.train_loss for ours, adam in pairs),
        len(pairs),
        median(ours.seconds_per_step / adam.seconds_per_step for ours, adam in pairs),
        median(memory(runs[OURS, ours.seed]) / memory(runs[best, ours.seed]) for ours, _ in pairs),
    )
    return [found]


def sizes_of(runs: Sequence[Run]) -> str:
    """Seeds, epochs and samples in words."""
    one = runs[0].config
    trained, scored = (f"{n}" if n else "all" for n in (one.train_samples, one.eval_samples))
    return f"{len({run.seed for run in runs})} seeds, {one.epochs} epochs; trained on {trained}, scored on {scored}"


def reached(run: Run, loss: float) -> float:
    """Seconds after which a group of steps first had no larger a mean loss; infinite if none had."""
    return next((row["seconds"] for row in steps_of(run) if row["loss"] <= loss), math.inf)


def overall(verdicts: Sequence[Verdict]) -> str:
    """Where the claim holds, as a sentence and a table."""
    met = sum(verdict.share <= TARGET for verdict in verdicts)
    return "\n".join(
        [
            f"On **{met} of {len(verdicts)}** problems OCNOpt needs at most {TARGET} of the time of the best Adam.",
            "",
            "| problem | best Adam | share of its time to its loss | lower loss, seeds | time per step | memory |",
            "|---|---|---:|---:|---:|---:|",
            *(verdict.line for verdict in verdicts),
        ]
    )


if __name__ == "__main__":
    sys.exit(Continuous.main(__doc__))
