"""Curves of runs side by side: losses and whatever else the groups of steps hold, medians over the seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from ocnopt_lab.errors import writing
from ocnopt_lab.runs.axes import plain
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.summaries import steps_of

LOSSES = ("step", "seconds", "loss")
Style = Callable[[str], dict[str, Any]]
"""Method → how matplotlib draws its line."""


def draw(path: Path, runs: Sequence[Run], style: Style) -> None:
    """Loss of the batches, medians over the seeds, against steps and seconds; a row per problem."""
    names = list(dict.fromkeys(run.problem for run in runs))
    figure = Figure(figsize=(11, 0.8 + 4 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, sharey="row", squeeze=False)
    for line, problem in zip(panels, names, strict=True):
        for method, curve in median_curves([run for run in runs if run.problem == problem], LOSSES).items():
            for axis, x in zip(line, ("step", "seconds"), strict=True):
                axis.plot(curve[x], curve["loss"], label=method, **style(method))
                axis.set_xlabel(x if x == "step" else "seconds in training steps")
                plain(axis)
        line[0].set_yscale("log")
        line[0].yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.5)))
        line[0].set_ylabel(f"{problem}\nloss of the batches")
    legend(figure)
    with writing(path):
        figure.savefig(path, dpi=130)


def legend(figure: Figure) -> None:
    """One for all panels, whose methods may differ."""
    lines = {line.get_label(): line for axis in figure.axes for line in axis.get_lines()}
    figure.legend(handles=[*lines.values()], loc="outside lower center", ncols=5, frameon=False)


def median_curves(runs: Sequence[Run], keys: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Per method the medians over its runs of these entries, group of steps by group of steps."""
    curves = {}
    for method in dict.fromkeys(run.method for run in runs):
        own = [steps_of(run) for run in runs if run.method == method]
        shortest = min(map(len, own))
        curves[method] = {key: np.median([[r[key] for r in rows[:shortest]] for rows in own], axis=0) for key in keys}
    return curves
