"""`ocnopt profile`: what a step costs, phase by phase, beside torch's Adam and AdamW and beside what it must cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from rich.console import Console
from rich.progress import Progress, track
from tyro.conf import Positional, arg

from ocnopt_lab import problems
from ocnopt_lab.errors import LabError, writing
from ocnopt_lab.profiling import memory, report
from ocnopt_lab.profiling.measuring import Measured, measure
from ocnopt_lab.profiling.sheets import Sheet
from ocnopt_lab.profiling.sizes import AXES, Size, along
from ocnopt_lab.profiling.timing import Plan
from ocnopt_lab.profiling.variants import GAMES, VARIANTS
from ocnopt_lab.runs import environment, folder
from ocnopt_lab.runs.config import RunConfig


@dataclass(frozen=True)
class Profile:
    """Measure time, operations, traffic and memory of a step of each variant of OCNOpt, by phase, beside torch's Adam,
    AdamW and the least that a step must do."""

    problem: Positional[Annotated[str, arg(metavar="PROBLEM")]]
    """Name of the problem."""
    batch_size: int | None = None
    """Samples per step. Left out: the problem's own number."""
    batch_sizes: tuple[int, ...] = ()
    """Further batch sizes: how time and memory grow with them is fitted as a power."""
    widths: tuple[float, ...] = ()
    """The same for networks so many times as wide as the problem's own."""
    depths: tuple[int, ...] = ()
    """The same for networks with so many times as many hidden layers."""
    steps: int = 20
    """Steps per block. Work that falls in every n-th step only is counted right from n steps on."""
    rounds: int = 15
    """Rounds; each runs one block of every variant, in random order."""
    phase_rounds: int = 3
    """Rounds in which the phases are told apart, in blocks of a whole period of the statistics."""
    phase_steps: int | None = None
    """Steps of those blocks, and steps whose work is counted, where a whole period takes too long: decompositions are
    spread over the steps, so that a part of a period holds about its share of them."""
    warmup: int = 60
    """Steps of every variant before the first round; the memory is measured over as many."""
    threads: int | None = None
    """Threads of torch. Left out: torch's own choice."""
    device: str = "cpu"
    """Where the steps run; phases on a device of CUDA are timed by its own events."""
    games: bool = False
    """Also the games of layers that share a stage, for residual and inception networks."""
    data_dir: Path | None = None
    """Folder with the data, as for `ocnopt train`."""
    out: Path | None = None
    """Folder for profile.json, profile.md and growth.png. Left out: runs/profile-<problem>-<time>."""

    def run(self, console: Console) -> int:
        """Measures, prints the tables and writes them to the run folder."""
        self._check()
        base = self._base()
        for size in (Size(base.batch, width, depth) for width in (1, *self.widths) for depth in (1, *self.depths)):
            problems.get(self.problem).sized(size.width, size.depth)
        axes = {axis: along(base, axis, values) for axis, values in zip(AXES, self._values(), strict=True)}
        sizes = dict.fromkeys([base, *(size for sizes in axes.values() for size in sizes)])
        found = {size: self._measured(console, size) for size in sizes}
        found[base] = self._remembered(console, found[base])
        own, others = report.sheets(found[base]), [one for size, one in found.items() if size != base]
        tables = [*own, *(sheet for one in others for sheet in report.sheets(one)[:2])]
        out = self.out or folder.timed(f"profile-{self.problem}")
        grown, numbers = self._grown(out, {axis: [found[size] for size in some] for axis, some in axes.items() if some})
        told = [line for one in found.values() if (line := report.feedback_told(one))]
        for sheet in (*tables, *grown):
            console.print(sheet.rich())
        for line in told:
            console.print(line, soft_wrap=True, highlight=False)
        self._write(out, self._page([*grown, *tables], told), {**numbers, "variants": report.to_dict(found[base])})
        if others:
            sized = [{"size": vars(size), "variants": report.to_dict(one)} for size, one in found.items()]
            folder.write_json(out / "sizes.json", {"sizes": sized})
        console.print(f"Run folder: {out}", soft_wrap=True, highlight=False)
        return 0

    def _values(self) -> tuple[tuple[float, ...], ...]:
        return self.batch_sizes, self.widths, self.depths

    def _check(self) -> None:
        for name in ("steps", "rounds", "phase_rounds", "phase_steps", "warmup"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise LabError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
        if self.rounds < 2:
            raise LabError("--rounds is 1; intervals need at least 2.")
        for name in ("batch_sizes", "widths", "depths"):
            if any(value <= 0 for value in getattr(self, name)):
                raise LabError(f"--{name.replace('_', '-')} must be more than 0.")

    def _base(self) -> Size:
        problem = problems.get(self.problem)
        return Size(problem.batch_size if self.batch_size is None else self.batch_size)

    def _configs(self, size: Size) -> dict[str, RunConfig]:
        """One run per variant, at a constant rate; `epochs` decides nothing here."""
        data_dir = str(self.data_dir.resolve()) if self.data_dir else None
        base = RunConfig(self.problem, epochs=10**6, batch_size=size.batch, schedule="constant", data_dir=data_dir)
        base = replace(base, threads=self.threads, device=self.device)
        variants = {**VARIANTS, **(GAMES if self.games else {})}
        return {name: replace(base, optimizer=optimizer) for name, optimizer in variants.items()}

    def _measured(self, console: Console, size: Size) -> Measured:
        configs = self._configs(size)
        plan = Plan(self.steps, self.rounds, self.warmup, self.phase_rounds, self.phase_steps)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(size.title, total=self.rounds + self.phase_rounds + len(configs))
            return measure(configs, size, plan, tick=lambda: progress.advance(task))

    def _remembered(self, console: Console, found: Measured) -> Measured:
        """With the memory of the process, each variant in one of its own."""
        configs = track(self._configs(found.size).items(), "memory", console=console, transient=True)
        return replace(found, memory={name: memory.measure(x, found.size, self.warmup) for name, x in configs})

    def _grown(self, out: Path, found: dict[str, list[Measured]]) -> tuple[list[Sheet], dict[str, Any]]:
        """Tables of exponents, and the picture of what they were fitted to."""
        if not any(len(one) > 1 for one in found.values()):
            return [], {}
        from ocnopt_lab.profiling import growth  # matplotlib: not for those who profile one size

        grown = [growth.growth(axis, one) for axis, one in found.items() if len(one) > 1]
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            growth.draw(out / "growth.png", f"{self.problem}: growth of a step", grown)
        return [one.sheet() for one in grown], {"growth": growth.to_dict(grown)}

    def _settings(self) -> dict[str, Any]:
        measured = {"batch size": self._base().batch, "steps per block": self.steps, "rounds": self.rounds}
        phases = {"rounds of the phases": self.phase_rounds, "their steps": self.phase_steps or "a whole period"}
        return {**measured, **phases, "warm-up steps": self.warmup, **environment.describe(torch.device(self.device))}

    def _page(self, sheets: list[Sheet], told: list[str]) -> str:
        facts = "\n".join(f"- {key}: {value}" for key, value in self._settings().items())
        return "\n\n".join([f"# {self.problem}", *(sheet.markdown() for sheet in sheets), *told, facts]) + "\n"

    def _write(self, out: Path, markdown: str, numbers: dict[str, Any]) -> None:
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            (out / "profile.md").write_text(markdown)
        folder.write_json(out / "profile.json", {"settings": self._settings(), **numbers})
