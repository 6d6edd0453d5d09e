"""A step on a CUDA device against AdamW: ResNet-18 on images of 32x32, and a Transformer of ten million weights.

    python benchmarks/gpu.py --write docs/benchmarks.md

Blocks of steps of all optimizers run in turn on the same random batch, timed by events of the device; the labels are
random, so that nothing but time and memory can be read from it.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import tyro
from pages import insert
from rich.console import Console
from rich.markdown import Markdown
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ocnopt import OCNOpt
from ocnopt_lab.errors import LabError, exit_code, writing
from ocnopt_lab.problems.language import Transformers
from ocnopt_lab.problems.residual import resnet18
from ocnopt_lab.runs.environment import describe
from ocnopt_lab.runs.folder import write_json

CHARACTERS, WINDOW = 65, 256
BASELINE = "AdamW (foreach)"
Make = Callable[[nn.Module], torch.optim.Optimizer]


def ours(**options: object) -> Make:
    return lambda model: OCNOpt(model, **options)  # type: ignore[arg-type]


OPTIMIZERS: dict[str, Make] = {
    BASELINE: lambda model: torch.optim.AdamW(model.parameters(), foreach=True),
    "AdamW (fused)": lambda model: torch.optim.AdamW(model.parameters(), fused=True),
    "ocnopt adam, no feedback": ours(curvature="adam", search="fixed", feedback=0.0),
    "ocnopt adam, linear on a sub-batch": ours(curvature="adam", search="fixed"),
    "ocnopt adam, linear": ours(curvature="adam", search="fixed", feedback_samples=None),
    "ocnopt ekfac, no feedback": ours(feedback=0.0),
    "ocnopt default": ours(),
}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Workload:
    """A network and the batch that it is trained on."""

    title: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    targets: Callable[[], Tensor]


WORKLOADS = {
    "resnet18": Workload(
        "ResNet-18, 512 images of 3x32x32",
        lambda: resnet18((3, 32, 32), 10),
        lambda: torch.randn(512, 3, 32, 32),
        lambda: torch.randint(10, (512,)),
    ),
    "transformer": Workload(
        f"Transformer, 4 blocks of width 448 (9.8 million weights), 64 windows of {WINDOW} characters",
        lambda: Transformers(448, 4, 7)((WINDOW,), CHARACTERS),
        lambda: torch.randint(CHARACTERS, (64, WINDOW)),
        lambda: torch.randint(CHARACTERS, (64, WINDOW)),
    ),
}


class Training:
    """One optimizer on one workload."""

    def __init__(self, workload: Workload, make: Make, precision: str) -> None:
        torch.manual_seed(0)
        self.model = workload.build().cuda()
        self.x, self.y = workload.inputs().cuda(), workload.targets().cuda()
        self.optimizer = make(self.model)
        self.dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.dtype is torch.float16)

    def step(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cuda", self.dtype, enabled=self.dtype is not torch.float32):
            output = self.model(self.x)
        self.scaler.scale(cross_entropy(output.float().flatten(0, -2), self.y.flatten())).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def block(self, steps: int) -> float:
        """Milliseconds of a step."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(steps):
            self.step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / steps

    def meetings(self, steps: int) -> float:
        """How often the host waits for the device in a step, as torch counts it."""
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                for _ in range(steps):
                    self.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in heard) / steps


@dataclass(frozen=True)
class Row:
    name: str
    milliseconds: list[float]
    megabytes: float
    meetings: float


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
        write_json(self.out / "results.json", {"environment": describe(), "rows": found})
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
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        training = Training(workload, make, precision)
        training.block(self.steps + 2)
        meetings = training.meetings(self.steps)
        return (torch.cuda.max_memory_allocated() - before) / 1e6, meetings


def circumstances(study: Gpu) -> str:
    found = describe()
    told = f"{torch.cuda.get_device_name()}, {found['cpu']}; Python {found['python']}, torch {found['torch']}"
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
