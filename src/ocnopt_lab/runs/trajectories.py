"""True and fitted trajectories: each state against time, and the first two states against each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ocnopt_lab.errors import writing
from ocnopt_lab.runs.axes import plain

NAME = "trajectories.png"
_TRUE, _FITTED = "#7F7F7F", "#D55E00"
_SHOWN = 2  # more lines than these against time cannot be told apart
States = NDArray[np.float64]


def draw(folder: Path, title: str, times: States, truth: States, fitted: States) -> None:
    """Writes trajectories.png; times (times,), truth and fitted (starts, times, states)."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
    states = truth.shape[2]
    grid = figure.add_gridspec(states, 2, width_ratios=(3, 2))
    for state in range(states):
        _against_time(figure.add_subplot(grid[state, 0]), times, truth, fitted, state)
    plane = figure.add_subplot(grid[:, 1])
    _plane(plane, truth, fitted)
    handles, labels = plane.get_legend_handles_labels()
    figure.legend(handles[:2], labels[:2], loc="outside lower center", ncols=2, frameon=False, fontsize=11)
    with writing(folder / NAME):
        figure.savefig(folder / NAME, dpi=130)


def _against_time(axis: Axes, times: States, truth: States, fitted: States, state: int) -> None:
    for true, fit in zip(truth[:_SHOWN], fitted[:_SHOWN], strict=True):
        axis.plot(times, true[:, state], color=_TRUE, linewidth=3, alpha=0.6)
        axis.plot(times, fit[:, state], color=_FITTED, linewidth=1.4)
    axis.set_xlabel("time")
    axis.set_ylabel(f"state {state + 1}")
    _frame(axis, truth[:_SHOWN, :, state])


def _plane(axis: Axes, truth: States, fitted: States) -> None:
    """All held-out starts."""
    for true, fit in zip(truth, fitted, strict=True):
        axis.plot(true[:, 0], true[:, 1], color=_TRUE, linewidth=3, alpha=0.6, label="true, held out")
        axis.plot(fit[:, 0], fit[:, 1], color=_FITTED, linewidth=1.2, label="fitted")
    axis.scatter(truth[:, 0, 0], truth[:, 0, 1], color="black", s=14, zorder=3)
    axis.set_xlabel("state 1")
    axis.set_ylabel("state 2")
    _frame(axis, truth[..., 1])
    low, high = _limits(truth[..., 0])
    axis.set_xlim(low, high)


def _frame(axis: Axes, values: States) -> None:
    """Limits are those of the truth: a fit that runs away leaves the panel."""
    axis.set_ylim(*_limits(values))
    plain(axis)


def _limits(values: States) -> tuple[float, float]:
    margin = 0.1 * float(np.ptp(values)) + 1e-9
    return float(values.min()) - margin, float(values.max()) + margin
