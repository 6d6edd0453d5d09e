"""What a step of OCNOpt costs beside one of Adam at the same weights, for Neural ODEs and flows.

    python benchmarks/continuous_cost.py --problems spiral flow-moons --write docs/results/continuous.md

Two trainers take turns on the same batches; before each turn the one of Adam is given the weights of the other, so that
both solve the same equations in as many steps. Seconds are those of the processor: other work does not count.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import torch
import tyro
from pages import insert
from rich.console import Console
from rich.markdown import Markdown

from ocnopt_lab.errors import exit_code, writing
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.problems import get
from ocnopt_lab.profiling.timing import endless
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.session import build_trainer
from ocnopt_lab.runs.trainer import Trainer

WARM = 5
"""Steps at the beginning, all of which gather statistics."""


@dataclass(frozen=True)
class ContinuousCost:
    """What a step costs in continuous time."""

    problems: tuple[str, ...] = (
        *("spiral", "lotka-volterra", "van-der-pol", "mnist-ode-small", "charactertrajectories"),
        *("articularywordrecognition", "flow-moons", "flow-circles"),
    )
    """Problems, see `ocnopt problems`."""
    steps: int = 40
    """Steps of each that count, after five that do not; a multiple of ten holds whole periods of the statistics."""
    data_dir: Path | None = None
    """Folder with the data, as for `ocnopt train`."""
    out: Path = Path("runs/continuous-cost")
    """Folder for the seconds of every problem; what is there is not measured again."""
    write: Path | None = None
    """A page to put the table into, between its markers for continuous-cost."""

    def run(self, console: Console) -> int:
        """Measures what is missing, then shows and writes the table of all problems."""
        torch.set_num_threads(1)
        for problem in self.problems:
            if not self.file(problem).exists():
                seconds = self.measure(problem)
                with writing(self.file(problem)):
                    self.out.mkdir(parents=True, exist_ok=True)
                    self.file(problem).write_text(json.dumps(seconds))
        text = self.text()
        console.print(Markdown(text))
        if self.write:
            insert(self.write, "continuous-cost", text)
        return 0

    def file(self, problem: str) -> Path:
        return self.out / f"{problem}.json"

    def measure(self, problem: str) -> dict[str, list[float]]:
        """Seconds of every step, by optimizer."""
        ours, adam = (self.trainer(problem, OptimizerConfig(name)) for name in ("ocnopt", "adam"))
        turns = endless(ours), endless(adam)
        seconds: dict[str, list[float]] = {"ocnopt": [], "adam": []}
        for _ in range(WARM + self.steps):
            adam.model.load_state_dict(ours.model.state_dict())
            for name, turn in zip(("adam", "ocnopt"), reversed(turns), strict=True):
                started = time.process_time()
                next(turn)
                seconds[name].append(time.process_time() - started)
        return {name: taken[WARM:] for name, taken in seconds.items()}

    def trainer(self, problem: str, optimizer: OptimizerConfig) -> Trainer:
        found = get(problem)
        data_dir = None if self.data_dir is None else str(self.data_dir)
        return build_trainer(RunConfig(problem, 1000, found.batch_size, optimizer, data_dir=data_dir))

    def text(self) -> str:
        """The table."""
        lines = ["| problem | Adam, ms | OCNOpt, ms | median | mean |", "|---|---:|---:|---:|---:|"]
        for file in sorted(self.out.glob("*.json")):
            seconds = json.loads(file.read_text())
            ours, adam = seconds["ocnopt"], seconds["adam"]
            middle, whole = median(ours) / median(adam), mean(ours) / mean(adam)
            times = f"{1000 * median(adam):.0f} | {1000 * median(ours):.0f}"
            lines.append(f"| {file.stem} | {times} | {middle:.2f} | {whole:.2f} |")
        note = (
            "Processor time of a step of each optimizer at the same weights and on the same batches, in turn, after "
            "five steps: medians, and ratios of medians and of means; these hold the steps that gather statistics."
        )
        return f"{note}\n\n" + "\n".join(lines) + "\n"


if __name__ == "__main__":
    description = __doc__
    sys.exit(exit_code("continuous_cost", lambda: tyro.cli(ContinuousCost, description=description).run(Console())))
