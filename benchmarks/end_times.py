"""Learned end times of a Neural ODE: do they arrive at the same value from wherever they start, and what do they save?

    python benchmarks/end_times.py --write docs/results/continuous.md

Two rings in the plane; the end time starts at 1.0 and at 0.05, under a penalty, and beside it stays at 1.0.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from pages import insert
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.ode import NeuralODE, TerminalTime
from ocnopt_lab.data.planar import circles
from ocnopt_lab.errors import exit_code, writing
from ocnopt_lab.runs.axes import plain

FIXED, STARTS = "stays at 1.0", (1.0, 0.05)


@dataclass(frozen=True)
class Outcome:
    """T after every step, evaluations of the field in the last step, and accuracy on new points."""

    times: list[float]
    evaluations: int
    accuracy: float


@dataclass(frozen=True)
class EndTimes:
    """Learned end times of a Neural ODE."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of weights and batches."""
    steps: int = 800
    """Steps of every run."""
    penalty: float = 1.0
    """c of the penalty ½ c T²."""
    out: Path = Path("runs/end-times")
    """Folder for the picture and results.md."""
    write: Path | None = None
    """A page to put the table into, between its markers for end-times."""

    def run(self, console: Console) -> int:
        """Trains everything, then writes table and picture."""
        torch.set_num_threads(1)
        plan = [(name, seed) for seed in self.seeds for name in (FIXED, *map(started, STARTS))]
        found = {(name, seed): self.train(name, seed) for name, seed in track(plan, "runs", console=console)}
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        self.draw(found)
        text = self.text(found)
        with writing(self.out / "results.md"):
            (self.out / "results.md").write_text(text)
        console.print(Markdown(text))
        if self.write:
            insert(self.write, "end-times", text)
        return 0

    def train(self, name: str, seed: int) -> Outcome:
        """One run."""
        torch.manual_seed(seed)
        ode = NeuralODE(Field(8), t1=1.0 if name == FIXED else self.end(start_of(name)))
        model = nn.Sequential(nn.Linear(2, 8), ode, nn.Linear(8, 2))
        optimizer = OCNOpt(model)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, self.steps)
        draws, times = torch.Generator().manual_seed(seed), []
        for _ in range(self.steps):
            x, y = rings(128, draws)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            (loss + ode.penalty(loss)).backward()
            optimizer.step()
            schedule.step()
            times.append(float(ode.t1 if name == FIXED else ode.t1.value))
        evaluations = ode.nfe_forward + ode.nfe_backward
        x, y = rings(4000, draws)
        return Outcome(times, evaluations, accuracy(model, x, y))

    def end(self, start: float) -> TerminalTime:
        return TerminalTime(start, low=0.01, high=3.0, penalty=self.penalty)

    def text(self, found: dict[tuple[str, int], Outcome]) -> str:
        """Table and sentences."""
        lines = ["| end time | T | evaluations | accuracy, % |", "|---|---|---:|---:|"]
        for name in (FIXED, *map(started, STARTS)):
            own = [found[name, seed] for seed in self.seeds]
            ends = " ".join(f"{one.times[-1]:.3f}" for one in own)
            spent, right = median(one.evaluations for one in own), median(one.accuracy for one in own)
            lines.append(f"| {name} | {ends} | {spent:.0f} | {100 * right:.2f} |")
        note = (
            f"Rings in the plane, {self.steps} steps of 128 points, penalty {self.penalty:g}·T²/2, seeds "
            f"{' '.join(map(str, self.seeds))}; evaluations of the field in the last step, forward and back, medians."
        )
        return "\n\n".join([note, "\n".join(lines), self.verdict(found)]) + "\n"

    def verdict(self, found: dict[tuple[str, int], Outcome]) -> str:
        """The two claims, with their numbers."""
        high, low = ([found[started(start), seed] for seed in self.seeds] for start in STARTS)
        apart = max(abs(a.times[-1] - b.times[-1]) / a.times[-1] for a, b in zip(high, low, strict=True))
        whole = median(found[FIXED, seed].evaluations for seed in self.seeds)
        saved = 1 - median(one.evaluations for one in (*high, *low)) / whole
        return (
            f"From both starts T arrives within {100 * apart:.0f} % of the same value, seed by seed at most; it saves "
            f"{100 * saved:.0f} % of the evaluations."
        )

    def draw(self, found: dict[tuple[str, int], Outcome]) -> None:
        """T over the steps."""
        figure = Figure(figsize=(7, 4), layout="constrained")
        axis = figure.subplots()
        for start, colour in zip(STARTS, ("#0072B2", "#D55E00"), strict=True):
            for seed in self.seeds:
                label = started(start) if seed == self.seeds[0] else None
                axis.plot(found[started(start), seed].times, color=colour, label=label, linewidth=1.2)
        axis.set(xlabel="step", ylabel="end time T")
        plain(axis)
        axis.legend(frameon=False)
        with writing(self.out / "end-times.png"):
            figure.savefig(self.out / "end-times.png", dpi=130)


class Field(nn.Module):
    """Two dense layers that know the time."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(features + 1, 32), nn.Linear(32, features)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        time = t.expand(len(x), 1).to(x)
        return self.outer(torch.tanh(self.inner(torch.cat([x, time], dim=1))))


def rings(n: int, draws: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points on two rings and which of them, outer or inner."""
    seed = int(torch.randint(2**31, (1,), generator=draws))
    x = torch.from_numpy(circles(n, np.random.default_rng(seed))).float()
    return x, (x.norm(dim=1) > 2.25).long()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return float((model(x).argmax(1) == y).float().mean())


def started(start: float) -> str:
    return f"starts at {start:g}"


def start_of(name: str) -> float:
    return float(name.split()[-1])


if __name__ == "__main__":
    sys.exit(exit_code("end_times", lambda: tyro.cli(EndTimes, description=__doc__).run(Console())))
