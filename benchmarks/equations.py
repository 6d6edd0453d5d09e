"""Differential equations: OCNOpt against Adam, L-BFGS and both in turn, at equal seconds; resumable."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from pages import insert
from rich.console import Console
from rich.markdown import Markdown
from timed_runs import machine, read_marks, write_marks
from torch import Tensor

from ocnopt_lab.equations import EQUATIONS
from ocnopt_lab.equations.equation import values
from ocnopt_lab.equations.methods import methods, train
from ocnopt_lab.equations.pictures import draw
from ocnopt_lab.errors import LabError, exit_code, writing
from ocnopt_lab.timed import Mark
from ocnopt_lab.timed.curves import draw_curves


@dataclass(frozen=True)
class Equations:
    """Relative L² errors after equal seconds, as a table and as pictures. Finished runs are not done again."""

    equations: tuple[str, ...] = tuple(EQUATIONS)
    """Equations to solve."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the points and of the initial weights, the same for all methods."""
    seconds: float = 20.0
    """Training time of every run, in seconds of the processor, on one thread."""
    adam_lrs: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """Rates of Adam, alone and before L-BFGS; each falls linearly to zero."""
    out: Path = Path("runs/equations")
    """Folder for the runs, the pictures and results.md."""
    write: Path | None = None
    """A page to put the tables into, between its markers for this script."""

    def run(self, console: Console) -> int:
        self.check()
        torch.set_num_threads(1)  # so that seconds of the processor are seconds
        for seed in self.seeds:
            for equation in self.equations:
                for method in methods(self.adam_lrs):
                    if not self.path(equation, method, seed).exists():
                        self.solve(equation, method, seed)
                        final = self.marks(equation, method, seed)[-1]
                        console.print(
                            f"{equation} {method} {seed}: error {final.error:.2e}, {final.steps} steps", highlight=False
                        )
                self.draw(equation, seed)
        text = self.text()
        with writing(self.out / "results.md"):
            (self.out / "results.md").write_text(text)
        console.print(Markdown(text))
        if self.write:
            insert(self.write, "equations", text)
        return 0

    def check(self) -> None:
        """A sentence for what cannot be, before anything runs."""
        unknown = set(self.equations) - set(EQUATIONS)
        if unknown:
            raise LabError(f"There is no equation {min(unknown)}; choose one of {', '.join(EQUATIONS)}.")
        if not self.seconds > 0:
            raise LabError(f"--seconds is {self.seconds:g}; it must be positive.")
        for path in self.out.glob("*.json"):
            if json.loads(path.read_text())["budget"] != self.seconds:
                raise LabError(f"{path} was run with other --seconds; choose another --out.")

    def path(self, equation: str, method: str, seed: int) -> Path:
        return self.out / f"{equation}-{method}-{seed}.json"

    def solve(self, name: str, method: str, seed: int) -> None:
        """One run: its parameters, and last its marks, whose file says that it is complete."""
        equation = EQUATIONS[name]
        model = equation.model(seed)
        marks = train(model, methods(self.adam_lrs)[method], equation.error, self.seconds)
        path = self.path(name, method, seed)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(model.state_dict(), path.with_suffix(".pt"))
        write_marks(path, {"budget": self.seconds}, marks)

    def marks(self, equation: str, method: str, seed: int) -> list[Mark]:
        return read_marks(self.path(equation, method, seed))

    def errors(self, equation: str, method: str) -> list[float]:
        return [self.marks(equation, method, seed)[-1].error for seed in self.seeds]

    def rivals(self, equation: str) -> list[str]:
        """All methods but OCNOpt, the best median first."""
        others = [method for method in methods(self.adam_lrs) if method != "ocnopt"]
        return sorted(others, key=lambda method: statistics.median(self.errors(equation, method)))

    def draw(self, name: str, seed: int) -> None:
        """Solution and errors of OCNOpt and of this seed's best rival, and all errors over time."""
        marks = {method: self.marks(name, method, seed) for method in methods(self.adam_lrs)}
        rival = min((method for method in marks if method != "ocnopt"), key=lambda method: marks[method][-1].error)
        equation = EQUATIONS[name]
        points = equation.grid()
        found = {method: self.found(name, method, seed, points) for method in ("ocnopt", rival)}
        draw(self.out / f"{name}-{seed}.png", equation, equation.solution(points), found)
        draw_curves(self.out / f"{name}-{seed}-errors.png", equation.title, marks, "error")

    def found(self, name: str, method: str, seed: int, points: Tensor) -> Tensor:
        model = EQUATIONS[name].model(seed)
        model.load_state_dict(torch.load(self.path(name, method, seed).with_suffix(".pt"), weights_only=True))
        return values(model, points)

    def text(self) -> str:
        """Medians and ranges over the seeds, and how many times smaller than the best rival's the errors are."""
        names = list(methods(self.adam_lrs))
        short = ["| equation | OCNOpt | best rival | its error | ratio |", "|---" * 5 + "|"]
        short += [self.row(name) for name in self.equations]
        long = ["| equation | " + " | ".join(names) + " |", "|---" * (1 + len(names)) + "|"]
        for equation in self.equations:
            cells = (shown(self.errors(equation, method)) for method in names)
            long.append(f"| {equation} | {' | '.join(cells)} |")
        head = f"Relative L² errors after {self.seconds:g} s, median (lowest to highest) of {len(self.seeds)} seeds."
        ratios = [self.ratio(name) for name in self.equations]
        below = f"**At most a tenth of the best rival's on {sum(r <= 0.1 for r in ratios)} of {len(ratios)}.**"
        first = self.path(self.equations[0], "ocnopt", self.seeds[0])
        where = machine(json.loads(first.read_text())["environment"])
        return "\n".join([f"{head} {where}", "", *short, "", below, "", *long, ""])

    def ratio(self, name: str) -> float:
        """Of the medians, to the best rival's."""
        best = self.errors(name, self.rivals(name)[0])
        return statistics.median(self.errors(name, "ocnopt")) / statistics.median(best)

    def row(self, name: str) -> str:
        ours, rival = self.errors(name, "ocnopt"), self.rivals(name)[0]
        theirs = self.errors(name, rival)
        return f"| {name} | {shown(ours)} | {rival} | {shown(theirs)} | {self.ratio(name):.3g} |"


def shown(errors: Sequence[float]) -> str:
    return f"{statistics.median(errors):.1e} ({min(errors):.1e} to {max(errors):.1e})"


if __name__ == "__main__":
    onward = "interrupted; the same command goes on from here."
    sys.exit(exit_code("equations", lambda: tyro.cli(Equations, description=__doc__).run(Console()), onward))
