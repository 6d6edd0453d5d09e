"""How time and memory of a step grow with the batch, the width and the depth: exponents fitted in log-log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ocnopt_lab.profiling.measuring import Measured
from ocnopt_lab.profiling.sheets import Sheet
from ocnopt_lab.profiling.variants import REFERENCE
from ocnopt_lab.runs.axes import plain

NAMES = {"batch": "batch size", "width": "width", "depth": "depth"}


@dataclass(frozen=True)
class Exponent:
    """Slope of a straight line through the logarithms, and its standard error; that of two points is not known."""

    slope: float
    error: float

    def __str__(self) -> str:
        return f"{self.slope:.2f}" + (f" ± {self.error:.2f}" if np.isfinite(self.error) else "")


def exponent(sizes: Sequence[float], values: Sequence[float]) -> Exponent:
    """Of values ∝ size^slope; sizes are at least two."""
    from scipy.stats import linregress  # a second to import: not for the other commands

    fit = linregress(np.log(sizes), np.log(values))
    return Exponent(float(fit.slope), float(fit.stderr) if len(sizes) > 2 else float("nan"))


@dataclass(frozen=True)
class Growth:
    """One axis: the sizes along it, milliseconds per step and MB of tensors of every variant, and their exponents."""

    axis: str
    sizes: list[float]
    ms: dict[str, list[float]]
    tensors: dict[str, list[float]]
    time: dict[str, Exponent]
    memory: dict[str, Exponent]

    def sheet(self) -> Sheet:
        at = [f"{size:g}" for size in self.sizes]
        header = ("variant", *(f"ms at {x}" for x in at), "time ∝", "less AdamW's", *(f"MB at {x}" for x in at))
        return Sheet(
            f"Growth with the {NAMES[self.axis]}", (*header, "memory ∝", "less AdamW's "), [*map(self.cells, self.ms)]
        )

    def cells(self, name: str) -> tuple[str, ...]:
        return (
            name,
            *(f"{x:.2f}" for x in self.ms[name]),
            *beside(self.time[name], self.time[REFERENCE]),
            *(f"{x:.1f}" for x in self.tensors[name]),
            *beside(self.memory[name], self.memory[REFERENCE]),
        )


def beside(own: Exponent, reference: Exponent) -> tuple[str, str]:
    return str(own), f"{own.slope - reference.slope:+.2f}"


def growth(axis: str, found: Sequence[Measured]) -> Growth:
    """found: all that was measured along the axis, in ascending order."""
    sizes = [float(getattr(one.size, axis)) for one in found]

    def values(of: Callable[[Measured, str], float]) -> dict[str, list[float]]:
        return {name: [of(one, name) for one in found] for name in found[0].blocks}

    ms, tensors = values(Measured.ms), values(lambda one, name: one.counted[name].held / 1e6)
    fitted = ({name: exponent(sizes, ys) for name, ys in table.items()} for table in (ms, tensors))
    return Growth(axis, sizes, ms, tensors, *fitted)


def to_dict(grown: Sequence[Growth]) -> dict[str, Any]:
    return {one.axis: asdict(one) for one in grown}


def draw(path: Path, title: str, grown: Sequence[Growth]) -> None:
    """Time above, memory below; a column for each axis."""
    figure = Figure(figsize=(1.5 + 4.2 * len(grown), 7.5), layout="constrained")
    grid = figure.subplots(2, len(grown), sharey="row", sharex="col", squeeze=False)
    for column, one in zip(grid.T, grown, strict=True):
        for axis, table in zip(column, (one.ms, one.tensors), strict=True):
            lines(axis, one.sizes, table)
        column[1].set_xlabel(NAMES[one.axis] + ("" if one.axis == "batch" else ", times the problem's own"))
    grid[0, 0].set_ylabel("ms per step")
    grid[1, 0].set_ylabel("MB of tensors")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, 1 + len(grown)), fontsize=8)
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120)


def lines(axis: Axes, sizes: list[float], table: dict[str, list[float]]) -> None:
    for name, ys in table.items():
        ours = name.startswith("ocnopt")
        axis.plot(sizes, ys, "o-" if ours else "s--", label=name, lw=1.4 if ours else 1.8, ms=4)
    axis.set(xscale="log", yscale="log")
    axis.set_xticks([], minor=True)
    axis.set_xticks(sizes, [f"{x:g}" for x in sizes])
    plain(axis)
