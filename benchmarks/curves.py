"""Curves of runs side by side: losses and whatever else the groups of steps hold, medians over the seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from runner import Run

from ocnopt_lab.errors import writing
from ocnopt_lab.runs import folder
from ocnopt_lab.runs.axes import plain

# Okabe and Ito's palette; rivals are cool or grey.
COLOURS = {
    "adam-0.001": "#9BB8D3",
    "adam-0.003": "#0072B2",
    "adam-0.01": "#56B4E9",
    "adam-0.03": "#7B6BB5",
    "sgd-0.03": "#C4C4C4",
    "sgd-0.1": "#9A9A9A",
    "sgd-0.3": "#666666",
    "ocnopt": "#D55E00",
    "no-game": "#000000",
    "nash-last": "#009E73",
    "cooperative-first": "#E69F00",
    "cooperative-last": "#D55E00",
    "cooperative-bandit": "#8B1A1A",
}

LOSSES = ("step", "seconds", "loss")


def draw(path: Path, runs: Sequence[Run]) -> None:
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
        line[0].set_ylabel(f"{problem}\nloss of the batches")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    with writing(path):
        figure.savefig(path, dpi=130)


def style(method: str) -> dict[str, Any]:
    """Rivals have thin lines."""
    width = 1.3 if method.startswith(("adam", "sgd")) else 2.0
    return {"color": COLOURS.get(method, "#333333"), "linewidth": width}


def median_curves(runs: Sequence[Run], keys: Sequence[str]) -> dict[str, dict[str, np.ndarray]]:
    """Per method the medians over its runs of these entries, group of steps by group of steps."""
    curves = {}
    for method in dict.fromkeys(run.method for run in runs):
        own = [steps_of(run) for run in runs if run.method == method]
        shortest = min(map(len, own))
        curves[method] = {key: np.median([[r[key] for r in rows[:shortest]] for rows in own], axis=0) for key in keys}
    return curves


def steps_of(run: Run) -> list[folder.Row]:
    """The rows of groups of steps; a loss that is not finite is infinite."""
    rows = [row for row in folder.read_rows(run.path / folder.METRICS) if row["kind"] == "steps"]
    return [{**row, "loss": math.inf if row["loss"] is None else row["loss"]} for row in rows]
