"""Forest plots: differences with their intervals, one line each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ocnopt_lab.errors import writing
from ocnopt_lab.runs.axes import plain
from ocnopt_lab.studies.statistics import Estimate

_BETTER, _WORSE, _NEITHER = "#0072B2", "#D55E00", "#7F7F7F"
Lines = Sequence[tuple[str, Estimate]]


def draw(path: Path, panels: Mapping[str, Lines], label: str) -> None:
    """A panel per problem, a line per name. Lower is better: blue where the whole interval is below 0, red above."""
    height = max(map(len, panels.values()))
    figure = Figure(figsize=(2.5 + 4.5 * len(panels), 1.2 + 0.3 * height), layout="constrained")
    for axis, (problem, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        _panel(axis, lines)
        axis.set(title=problem, xlabel=label)
    with writing(path):
        figure.savefig(path, dpi=130)


def _panel(axis: Axes, lines: Lines) -> None:
    """An end that is infinite is an arrow at the edge."""
    bounds = [x for _, found in lines for x in (found.low, found.median, found.high) if math.isfinite(x)]
    edge = 1.15 * max(map(abs, bounds), default=1.0) or 1.0
    for height, (_, found) in enumerate(lines):
        colour = _BETTER if found.high < 0 else _WORSE if found.low > 0 else _NEITHER
        low, middle, high = (min(max(x, -edge), edge) for x in (found.low, found.median, found.high))
        axis.plot([low, high], [height, height], color=colour, linewidth=1.8)
        marker = "o" if math.isfinite(found.median) else "<" if found.median < 0 else ">"
        axis.plot([middle], [height], color=colour, marker=marker, markersize=6)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(yticks=range(len(lines)), yticklabels=[name for name, _ in lines], xlim=(-1.05 * edge, 1.05 * edge))
    axis.invert_yaxis()
    plain(axis)
