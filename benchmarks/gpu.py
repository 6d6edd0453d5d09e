"""A step on a CUDA device against AdamW: ResNet-18 on images of 32x32, and a Transformer of ten million weights.

    python benchmarks/gpu.py --write docs/benchmarks.md

Blocks of steps of all optimizers run in turn on the same random batch, timed by events of the device; the labels are
random, so that nothing but time and memory can be read from it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import tyro
from gpu_steps import BASELINE, OPTIMIZERS, PRECISIONS, WORKLOADS, Make, Row, Training, Workload
from pages import insert
from rich.console import Console
from rich.markdown import Markdown

from ocnopt_lab.errors import LabError, exit_code, writing
from ocnopt_lab.runs.environment import describe
from ocnopt_lab.runs.folder import write_json
from ocnopt_lab.runs.memory import DeviceMemory

DEVICE = torch.device("cuda")


@dataclass(frozen=True)
class Gpu:
    """Time and memory of a step on a CUDA device."""

    workloads: tuple[str, ...] = tuple(WORKLOADS)
    """Which of resnet18 and transformer."""
    precisions: tuple[str, ...] = tuple(PRECISIONS)
    """float32 as torch computes it by default; bfloat16 and float16 by autocast, the latter with a GradScaler."""
    steps: int = 10
    """Steps of a block: the period of statistics."""
    rounds: int = 7
    """Blocks of each optimizer."""
    warmup: int = 30
    """Steps of each before the first block."""
    out: Path = Path("runs/gpu")
    """Folder for results.json and results.md."""
    write: Path | None = None
    """A page to put the tables into, between its markers for this script."""

    def run(self, console: Console) -> int:
        if not torch.cuda.is_available():
            raise LabError("There is no CUDA device here, and this script measures nothing else.")
        tables: dict[tuple[str, str], list[Row]] = {}
        for name in self.workloads:
            for precision in self.precisions:
                tables[name, precision] = self.measured(console, name, precision)
                self.keep(tables)
        return 0

    def keep(self, tables: dict[tuple[str, str], list[Row]]) -> None:
        """What there is so far, in the folder and on the page."""
        text = "\n\n".join([circumstances(self), *(table(*key, rows) for key, rows in tables.items())])
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        found = {f"{name} {precision}": [vars(row) for row in rows] for (name, precision), rows in tables.items()}
        write_json(self.out / "results.json", {"environment": describe(DEVICE), "rows": found})
        (self.out / "results.md").write_text(text)
        if self.write:
            insert(self.write, "gpu", text)

    def measured(self, console: Console, name: str, precision: str) -> list[Row]:
        """Memory of each optimizer by itself, then the times of all in turn."""
        workload = WORKLOADS[name]
        memory = {name: self.alone(workload, make, precision) for name, make in OPTIMIZERS.items()}
        trainings = {name: Training(workload, make, precision) for name, make in OPTIMIZERS.items()}
        for training in trainings.values():
            training.block(self.warmup)
        rounds = [{name: one.block(self.steps) for name, one in trainings.items()} for _ in range(self.rounds)]
        rows = [Row(one, [r[one] for r in rounds], *memory[one]) for one in OPTIMIZERS]
        console.print(Markdown(table(name, precision, rows)))
        return rows

    def alone(self, workload: Workload, make: Make, precision: str) -> tuple[float, float]:
        """Peak megabytes allocated, and how often host and device meet in a step."""
        torch.cuda.empty_cache()
        memory = DeviceMemory(DEVICE)
        memory.resume()
        training = Training(workload, make, precision)
        training.block(self.steps + 2)
        meetings = training.meetings(self.steps)
        memory.pause()
        return memory.growth, meetings


def circumstances(study: Gpu) -> str:
    found = describe(DEVICE)
    told = f"{found['device']}, {found['cpu']}; Python {found['python']}, torch {found['torch']}"
    blocks = f"medians of {study.rounds} blocks of {study.steps} steps after {study.warmup}"
    return f"{told}, ocnopt {found['ocnopt']}; {blocks}, of all optimizers in turn."


def table(workload: str, precision: str, rows: list[Row]) -> str:
    head = "| optimizer | ms/step | x AdamW | peak MB | x AdamW | meetings |\n|---|---:|---:|---:|---:|---:|"
    base = next(row for row in rows if row.name == BASELINE)
    lines = [head, *(line(row, base) for row in rows)]
    return f"**{WORKLOADS[workload].title}, {precision}**\n\n" + "\n".join(lines)


def line(row: Row, base: Row) -> str:
    ms, other = median(row.milliseconds), median(base.milliseconds)
    sizes = f"{row.megabytes:.0f} | {row.megabytes / base.megabytes:.2f}"
    return f"| {row.name} | {ms:.2f} | {ms / other:.2f} | {sizes} | {row.meetings:.1f} |"


if __name__ == "__main__":
    sys.exit(exit_code("gpu", lambda: tyro.cli(Gpu, description=__doc__).run(Console())))
