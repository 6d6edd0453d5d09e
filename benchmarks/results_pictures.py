"""Pictures of the pages under docs/results: scores over rates, and the papers' heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results_robustness import Widths

from ocnopt_lab.errors import writing
from ocnopt_lab.studies import heat
from ocnopt_lab.studies.robustness import OFF, ON
from ocnopt_lab.studies.summaries import heading

_LINES = {
    ("fixed", OFF): ("EKFAC, fixed step", "#7F7F7F", "--"),
    ("fixed", ON): ("with feedback, fixed step", "#1F77B4", "--"),
    ("model", ON): ("with feedback, lr multiplies the model's step", "#FF7F0E", "-"),
    ("bounded", ON): ("with feedback, lr bounds the model's step", "#2CA02C", "-"),
}


def rates(path: Path, found: Sequence[Widths]) -> None:
    """A panel per problem: the median score over the rate, as a multiple of the default of each search."""
    columns = min(3, len(found))
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * rows + 0.8), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for axis, x in zip(axes, found, strict=False):
        _panel(axis, x)
    for axis in axes[len(found) :]:
        axis.set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    with writing(path):
        figure.savefig(path, dpi=110)


def _panel(axis: Axes, x: Widths) -> None:
    """Of the last value of the knob."""
    for (search, method), (label, colour, style) in _LINES.items():
        grid = x.grids[search]
        middle = grid.rates[len(grid.rates) // 2]
        scores = np.median(x.scores(search, method)[-1], axis=-1)
        shown = np.where(np.isfinite(scores), scores, np.nan)
        factor = 100 if x.measure.format.endswith("%") else 1
        axis.plot(np.array(grid.rates) / middle, factor * shown, style, color=colour, label=label, marker=".")
    axis.set_xscale("log")
    if x.measure.best is min:
        axis.set_yscale("log")
    axis.set_title(f"{x.problem}, batch size {x.grids['fixed'].knobs[-1]:g}", fontsize=10)
    axis.set_xlabel("rate / default rate", fontsize=9)
    axis.set_ylabel(heading(x.measure), fontsize=9)
    axis.grid(alpha=0.3)


def maps(path: Path, found: Sequence[Widths], search: str) -> None:
    """Fig. 4a of DDPNOpt: with feedback, without, and what feedback adds."""
    grids = [x.grids[search] for x in found]
    heat.draw(path, [heat.Maps(g.problem, g.measure, "batch size", g.knobs, g.rates, g.medians()) for g in grids])
