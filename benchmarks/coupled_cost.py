"""What a coupled step costs: time and memory against rows, outputs and parameters, beside the algebra it needs.

    python benchmarks/coupled_cost.py --write docs/coupled.md

The algebra: for every layer the two matrix products U Uᵀ and Z Zᵀ, and one Cholesky factorisation with its solve, each
as one call of torch, on matrices of the same sizes, half of each product.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import tyro
from coupled_timing import Case, Cost, cost_of
from matplotlib.figure import Figure
from pages import insert
from rich.console import Console
from rich.markdown import Markdown

from ocnopt_lab.errors import LabError, exit_code, writing
from ocnopt_lab.runs.axes import plain
from ocnopt_lab.runs.environment import describe
from ocnopt_lab.runs.folder import write_json


@dataclass(frozen=True)
class CoupledCost:
    """Seconds of the processor on one thread, medians over some steps."""

    widths: tuple[int, ...] = (32, 64)
    """Of the hidden layers."""
    rows: tuple[int, ...] = (256, 512, 1024, 2048, 4096)
    """Rows times outputs."""
    outputs: tuple[int, ...] = (1, 4)
    """Outputs of the network; with several there are fewer samples, for the same rows."""
    repeats: int = 5
    """Steps that are timed."""
    out: Path = Path("runs/coupled-cost")
    """Folder for results.json, results.md and cost.png."""
    write: Path | None = None
    """A page to put the table into, between its markers for this script."""

    def run(self, console: Console) -> int:
        if self.repeats < 1 or min(self.rows) < max(self.outputs):
            raise LabError("--repeats must be at least 1, and --rows no less than --outputs.")
        torch.set_num_threads(1)  # so that seconds of the processor are seconds
        cases = [Case(w, r // k, k) for w in self.widths for k in self.outputs for r in self.rows]
        costs = []
        for case in cases:
            costs.append(cost_of(case, self.repeats))
            console.print(f"{costs[-1]}", highlight=False, soft_wrap=True)
        text = table(costs)
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "results.md").write_text(text)
            draw(self.out / "cost.png", costs)
        write_json(self.out / "results.json", {"environment": describe(), "costs": [asdict(c) for c in costs]})
        if self.write:
            insert(self.write, "coupled-cost", text)
        console.print(Markdown(text))
        return 0


def table(costs: Sequence[Cost]) -> str:
    machine = describe()
    where = (
        f"{machine['cpu']}, one thread; Python {machine['python']}, torch {machine['torch']}. Milliseconds, medians. "
        "Algebra: the two matrix products of every layer and one Cholesky factorisation. Memory: two matrices of the "
        "system, in float64."
    )
    columns = ["width", "parameters", "samples", "outputs", "step", "algebra", "step / algebra", "Adam's step", "MB"]
    lines = [where, "", f"| {' | '.join(columns)} |", "|---:" * len(columns) + "|"]
    for c in costs:
        size = 2 * 8 * (c.rows * c.outputs) ** 2 / 1e6
        times = [f"{1e3 * c.step:.1f}", f"{1e3 * c.algebra:.1f}", f"{c.step / c.algebra:.2f}", f"{1e3 * c.adam:.2f}"]
        cells = [str(c.width), str(c.parameters), str(c.rows), str(c.outputs), *times, f"{size:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(path: Path, costs: Sequence[Cost]) -> None:
    """Time over rows times outputs, and over parameters where there are several sizes."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    over_rows, over_parameters = figure.subplots(1, 2, sharey=True)
    for width, outputs in dict.fromkeys((c.width, c.outputs) for c in costs):
        own = [c for c in costs if (c.width, c.outputs) == (width, outputs)]
        rows = [c.rows * c.outputs for c in own]
        (line,) = over_rows.plot(rows, [c.step for c in own], "o-", label=f"width {width}, {outputs} outputs")
        over_rows.plot(rows, [c.algebra for c in own], "--", color=line.get_color(), lw=1)
    for rows in dict.fromkeys(c.rows * c.outputs for c in costs):
        own = sorted((c for c in costs if c.rows * c.outputs == rows and c.outputs == 1), key=lambda c: c.parameters)
        over_parameters.plot([c.parameters for c in own], [c.step for c in own], "o-", label=f"{rows} rows")
    over_rows.set(xlabel="samples times outputs", ylabel="seconds (dashed: the algebra alone)")
    over_parameters.set(xlabel="parameters")
    for axis, ticks in (
        (over_rows, {c.rows * c.outputs for c in costs}),
        (over_parameters, {c.parameters for c in costs if c.outputs == 1}),
    ):
        axis.set(xscale="log", yscale="log")
        axis.set_xticks([], minor=True)
        axis.set_xticks(sorted(ticks), [f"{x:,}" for x in sorted(ticks)])
        axis.legend(fontsize=8)
        plain(axis)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(exit_code("coupled_cost", lambda: tyro.cli(CoupledCost, description=__doc__).run(Console())))
