"""`ocnopt profile`: what a step costs, as a ratio to torch's Adam."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from rich.console import Console
from rich.progress import Progress, track
from tyro.conf import Positional, arg

from ocnopt_lab import data, problems
from ocnopt_lab.errors import LabError, writing
from ocnopt_lab.profiling import memory, report, timing
from ocnopt_lab.profiling.variants import GAMES, VARIANTS
from ocnopt_lab.runs import environment, folder
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.trainer import Trainer


@dataclass(frozen=True)
class Profile:
    """Measure time per step and peak memory of each variant of OCNOpt as ratios to torch's Adam."""

    problem: Positional[Annotated[str, arg(metavar="PROBLEM")]]
    """Name of the problem."""
    batch_size: int | None = None
    """Samples per step. Left out: the problem's own number."""
    steps: int = 20
    """Steps per block. Work that falls in every n-th step only is counted right from n steps on."""
    rounds: int = 15
    """Rounds; each runs one block of every variant, in random order."""
    warmup: int = 30
    """Steps of every variant before the first round; the memory is measured over as many."""
    threads: int | None = None
    """Threads of torch. Left out: torch's own choice."""
    games: bool = False
    """Also the games of layers that share a stage, for residual and inception networks."""
    data_dir: Path | None = None
    """Folder with the data, as for `ocnopt train`."""
    out: Path | None = None
    """Folder for profile.json and profile.md. Left out: runs/profile-<problem>-<time>."""

    def run(self, console: Console) -> int:
        """Measures, prints the table and writes it to the run folder."""
        self._check()
        configs = self._configs()
        blocks = self._time(console, configs)
        memories = {
            name: memory.measure(config, self.warmup)
            for name, config in track(configs.items(), "memory", console=console, transient=True)
        }
        rows = report.lines(blocks, memories)
        title = f"{self.problem}: time per step and peak memory"
        console.print(report.rich_table(title, rows))
        self._write(console, report.markdown(title, rows, self._settings()), report.to_dict(rows, blocks))
        return 0

    def _check(self) -> None:
        for name in ("steps", "rounds", "warmup"):
            if (value := getattr(self, name)) < 1:
                raise LabError(f"--{name} is {value}; it must be at least 1.")

    def _configs(self) -> dict[str, RunConfig]:
        """One run per variant, at a constant rate; `epochs` decides nothing here."""
        problem = problems.get(self.problem)
        size = problem.batch_size if self.batch_size is None else self.batch_size
        data_dir = str(self.data_dir.resolve()) if self.data_dir else None
        base = RunConfig(
            problem.name, epochs=1, batch_size=size, schedule="constant", data_dir=data_dir, threads=self.threads
        )
        variants = {**VARIANTS, **(GAMES if self.games else {})}
        return {name: replace(base, optimizer=optimizer) for name, optimizer in variants.items()}

    def _time(self, console: Console, configs: dict[str, RunConfig]) -> dict[str, Any]:
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        problem = problems.get(self.problem)
        dataset = data.load(problem.data, data_dir=self.data_dir, recipe=problem.recipe)
        trainers = {name: Trainer(config, problem, dataset) for name, config in configs.items()}
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task("time", total=self.rounds)
            plan = timing.Plan(self.steps, self.rounds, self.warmup)
            return timing.time_blocks(trainers, plan, after_round=lambda: progress.advance(task))

    def _settings(self) -> dict[str, Any]:
        problem = problems.get(self.problem)
        measured = {"batch size": self.batch_size or problem.batch_size, "steps per block": self.steps}
        return {**measured, "rounds": self.rounds, "warm-up steps": self.warmup, **environment.describe()}

    def _write(self, console: Console, markdown: str, numbers: dict[str, Any]) -> None:
        out = self.out or folder.timed(f"profile-{self.problem}")
        with writing(out):
            out.mkdir(parents=True, exist_ok=True)
            (out / "profile.md").write_text(markdown)
        folder.write_json(out / "profile.json", {"settings": self._settings(), "variants": numbers})
        console.print(f"Run folder: {out}", soft_wrap=True, highlight=False)
