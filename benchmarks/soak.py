"""The long checks of reliability, too long for the tests, and their table on docs/reliability.md.

python benchmarks/soak.py --runs 1000 --steps 20000 --write docs/reliability.md
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from pages import insert

from ocnopt_lab.errors import FAILED, exit_code
from ocnopt_lab.reliability import harness, soak


@dataclass(frozen=True)
class Soak:
    """Run faulty trainings and one long training; the exit code is 1 where anything is wrong."""

    runs: int = 1000
    """Randomised faulty runs."""
    steps: int = 20_000
    """Steps of the long run."""
    start: int = 0
    """Seed of the first faulty run."""
    write: Path | None = None
    """Page to put the table into. Left out: only print it."""

    def run(self) -> int:
        """Both checks, one after the other."""
        torch.set_num_threads(1)
        marks = soak.soak(self.steps, done=lambda n: print(f"{n} steps", flush=True))
        struck, counted, wrong = harness.many_runs(range(self.start, self.start + self.runs), self.tell)
        text = "\n\n".join([self.faults(struck, counted, wrong), self.growth(marks)])
        print(text)
        if self.write is not None:
            insert(self.write, "soak", text)
        return FAILED if wrong or grows(marks) else 0

    def tell(self, seed: int) -> None:
        if (seed + 1 - self.start) % 50 == 0:
            print(f"{seed + 1 - self.start} faulty runs", flush=True)

    def faults(self, struck: Counter[str], counted: Counter[str], wrong: list[str]) -> str:
        """Both counts as tables, and every run that ended badly."""
        head = f"{self.runs:,} faulty runs, {struck.total():,} faults that struck, {len(wrong)} findings."
        tables = [table("fault", "struck", struck), table("count", "sum over all runs", counted)]
        return "\n\n".join([head, *tables, *(f"- {text}" for text in wrong)])

    def growth(self, marks: list[soak.Mark]) -> str:
        rows = [f"| {m.step:,} | {m.memory:.1f} | {m.hooks} | {m.tensors} |" for m in marks]
        head = ["| step | resident memory (MiB) | hooks | tensors of the state |", "|---|---|---|---|"]
        return "\n".join([f"One run of {self.steps:,} steps:", "", *head, *rows])


def table(first: str, second: str, counts: Counter[str]) -> str:
    rows = [f"| {name} | {number:,} |" for name, number in sorted(counts.items())]
    return "\n".join([f"| {first} | {second} |", "|---|---|", *rows])


def grows(marks: list[soak.Mark]) -> bool:
    """Whether hooks or tensors have changed, or memory has grown by over 5 % in the second half."""
    middle, last = marks[len(marks) // 2], marks[-1]
    same = (middle.hooks, middle.tensors) == (last.hooks, last.tensors)
    return not same or last.memory > 1.05 * middle.memory


if __name__ == "__main__":
    sys.exit(exit_code("soak", lambda: tyro.cli(Soak, description=__doc__).run()))
