"""Feedback now and then: what the loss is after equally many steps where feedback rests, and where it never does.

    python benchmarks/resting.py --data-dir FOLDER --write docs/profile.md

Runs that are finished are not made again. Beside the default stand feedback in every step, and that of the whole batch.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import tyro
from pages import insert
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import track

from ocnopt_lab.errors import exit_code, writing
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.profiling.timing import endless
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.environment import describe
from ocnopt_lab.runs.folder import write_json
from ocnopt_lab.runs.session import build_trainer

VARIANTS = {
    "default": OptimizerConfig("ocnopt"),
    "every step": OptimizerConfig("ocnopt", feedback_every=1),
    "every step, all samples": OptimizerConfig("ocnopt", feedback_every=1, feedback_samples="all"),
}
LAST = 100
"""Steps whose losses are averaged at the end."""
Run = tuple[str, int, str, int]
"""A problem, its batch size, a variant by its name, and a seed."""


@dataclass(frozen=True)
class Resting:
    """Feedback now and then against feedback in every step."""

    problems: tuple[str, ...] = ("mnist-fcn", "fashion-mnist-cnn", "char-transformer")
    """Problems with a cross-entropy."""
    batches: tuple[int, ...] = (32,)
    """Batch sizes."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of weights and batches."""
    steps: int = 600
    """Steps of every run."""
    data_dir: Path | None = None
    """Folder with the data, as for `ocnopt train`."""
    out: Path = Path("runs/resting")
    """Folder for a file of each run."""
    write: Path | None = None
    """A page to put the table into, between its markers for resting."""

    def run(self, console: Console) -> int:
        """Makes the runs that are not there yet, and writes the table of all."""
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        for run in track([x for x in self.plan() if not self.file(*x).exists()], "runs", console=console):
            write_json(self.file(*run), {**self.train(*run), "environment": describe()})
        text = self.text()
        console.print(Markdown(text))
        if self.write:
            insert(self.write, "resting", text)
        return 0

    def plan(self) -> list[Run]:
        """Seed after seed, so that an interrupted study has some of all."""
        return [(*case, seed) for seed in self.seeds for case in self.cases()]

    def cases(self) -> list[tuple[str, int, str]]:
        """What the seeds are of, a row of the table each."""
        return [*product(self.problems, self.batches, VARIANTS)]

    def file(self, problem: str, batch: int, variant: str, seed: int) -> Path:
        """Of one run."""
        return self.out / f"{problem}-{batch}-{variant.replace(',', '').replace(' ', '-')}-{seed}.json"

    def train(self, problem: str, batch: int, variant: str, seed: int) -> dict[str, Any]:
        """Mean loss of the last steps, the score on the test set and its form, and milliseconds per step."""
        data_dir = str(self.data_dir.resolve()) if self.data_dir else None
        config = RunConfig(problem, 10**6, batch, VARIANTS[variant], seed, "constant")
        trainer = build_trainer(replace(config, data_dir=data_dir, threads=1))
        results = [*islice(endless(trainer), self.steps)]
        (_, test), measure = trainer.scores(), trainer.task.measure
        seconds = fmean(x.seconds for x in results[self.steps // 2 :])
        return {
            "loss": fmean(x.loss for x in results[-LAST:]),
            "score": test[measure.key],
            "measure": measure.label,
            "format": measure.format,
            "ms": 1000 * seconds,
        }

    def text(self) -> str:
        """A row for every problem, batch size and variant that has a run."""
        lines = [
            "| problem | batch | feedback | training loss | score | of | ms/step |",
            "|---|---:|---|---:|---:|---|---:|",
        ]
        for case in self.cases():
            files = [self.file(*case, seed) for seed in self.seeds]
            own = [json.loads(file.read_text()) for file in files if file.exists()]
            if own:
                lines.append(row(*case, own))
        note = (
            f"After {self.steps} steps: mean loss of the last {LAST} and score on the test set, mean and standard "
            f"deviation over seeds {' '.join(map(str, self.seeds))}; and the median time of a step."
        )
        return "\n\n".join([note, "\n".join(lines)]) + "\n"


def row(problem: str, batch: int, name: str, own: list[dict[str, Any]]) -> str:
    loss, score = (
        spread([one[key] for one in own], form) for key, form in (("loss", ".4f"), ("score", own[0]["format"]))
    )
    told = f"| {problem} | {batch} | {name} | {loss} | {score} | {own[0]['measure']} |"
    return f"{told} {median(one['ms'] for one in own):.1f} |"


def spread(values: list[float], form: str) -> str:
    return f"{fmean(values):{form}}" + (f" ± {stdev(values):{form}}" if len(values) > 1 else "")


if __name__ == "__main__":
    sys.exit(exit_code("resting", lambda: tyro.cli(Resting, description=__doc__).run(Console())))
