"""Training loss and the test score of the task against epochs and seconds, one line per optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ocnopt_lab.errors import writing
from ocnopt_lab.runs.axes import plain
from ocnopt_lab.runs.folder import Row
from ocnopt_lab.tasks import Measure, Task

# Okabe and Ito's palette: told apart by colour-blind readers too. Rivals are cool or grey, ours are warm.
_COLOURS = {
    "ocnopt": "#D55E00",
    "ocnopt-ekfac": "#D55E00",
    "ocnopt-rmsprop": "#E69F00",
    "ocnopt-adam": "#CC79A7",
    "ocnopt-kfac": "#8B1A1A",
    "ocnopt-sgd": "#B8860B",
    "adam": "#0072B2",
    "adamw": "#004B75",
    "sgd": "#7F7F7F",
    "rmsprop": "#009E73",
}
_X = {"epoch": "epoch", "seconds": "seconds in training steps"}


@dataclass(frozen=True)
class Curve:
    """One run: its label in the legend, the optimizer that gives the colour, and its rows of epoch metrics."""

    label: str
    optimizer: str
    rows: Sequence[Row]


def draw(path: Path, title: str, curves: Sequence[Curve], task: Task) -> None:
    """Writes the picture: training loss above test score, epochs left and seconds right."""
    measure = task.measure
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots(2, 2, sharex="col", sharey="row")
    for line, y in zip(axes, ("train_loss", measure.column), strict=True):
        for axis, x in zip(line, _X, strict=True):
            _panel(axis, x, y, curves)
    _frame(axes, (task.loss_label, measure.label))
    _scale_losses(axes[0][0], [row["train_loss"] for curve in curves for row in curve.rows])
    _scale_seconds(axes[1][1], [curve.rows[-1]["seconds"] for curve in curves])
    _scale_scores(axes[1][0], measure, [row[measure.column] for curve in curves for row in curve.rows[1:]])
    # Below the panels: inside them it would hide data for one run or another.
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(curves), 5), frameon=False, fontsize=11)
    with writing(path):
        figure.savefig(path, dpi=130)


def panels(curves: Sequence[Curve], task: Task) -> list[tuple[str, Figure]]:
    """(caption, figure) of each panel on its own, small enough for a narrow page; a label is named once."""
    measure = task.measure
    labels = {"train_loss": task.loss_label, measure.column: measure.label}
    out = []
    for y, label in labels.items():
        for x, words in _X.items():
            figure = Figure(figsize=(5.2, 3.9), layout="constrained")
            axis = figure.subplots()
            _panel(axis, x, y, curves)
            plain(axis)
            axis.set(xlabel=words, ylabel=label)
            _scale(axis, (x, y), curves, measure)
            named = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
            figure.legend(named.values(), named, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
            out.append((f"{label[0].upper()}{label[1:]} against {words}.", figure))
    return out


def _scale(axis: Axes, names: tuple[str, str], curves: Sequence[Curve], measure: Measure) -> None:
    x, y = names
    if y == "train_loss":
        _scale_losses(axis, [row[y] for curve in curves for row in curve.rows])
    else:
        _scale_scores(axis, measure, [row[y] for curve in curves for row in curve.rows[1:]])
    if x == "seconds":
        _scale_seconds(axis, [curve.rows[-1]["seconds"] for curve in curves])
    else:
        axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))


def _panel(axis: Axes, x: str, y: str, curves: Sequence[Curve]) -> None:
    for curve in curves:
        points = [(row[x], row[y]) for row in curve.rows if row[y] is not None]
        ours = curve.optimizer.startswith("ocnopt")
        axis.plot(
            *(zip(*points, strict=True) if points else ([], [])),
            label=curve.label,
            color=_COLOURS.get(curve.optimizer, "#333333"),
            linewidth=2.4 if ours else 1.6,
            zorder=3 if ours else 2,
            marker="o" if len(points) <= 10 else None,
            markersize=4,
        )


def _frame(axes: Sequence[Sequence[Axes]], labels: tuple[str, str]) -> None:
    for axis in (axis for line in axes for axis in line):
        plain(axis)
    for axis, label in zip(axes[-1], _X.values(), strict=True):
        axis.set_xlabel(label)
    for line, label in zip(axes, labels, strict=True):
        line[0].set_ylabel(label)
    axes[1][0].set_xlim(left=0)


def _scale_seconds(axis: Axes, totals: Sequence[float]) -> None:
    """Logarithmic where one run took far longer than another, which would be a vertical line otherwise."""
    if max(totals) > 5 * min(totals):
        axis.set_xscale("log", nonpositive="mask")  # the point before the first step is at 0
    else:
        axis.set_xlim(left=0)


def _scale_losses(axis: Axes, losses: Sequence[float | None]) -> None:
    """Logarithmic, unless a loss may be negative as that of a density."""
    if all(loss is None or loss > 0 for loss in losses):
        axis.set_yscale("log")


def _scale_scores(axis: Axes, measure: Measure, scores: Sequence[float | None]) -> None:
    """A share is zoomed in on, an error is logarithmic, what may be negative is left as it is."""
    known = sorted(score for score in scores if score is not None)
    if measure.format.endswith("%"):
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        _zoom(axis, known)
    elif known and known[0] > 0:
        axis.set_yscale("log")


def _zoom(axis: Axes, values: Sequence[float]) -> None:
    """Cuts off the climb of the first epochs: what differs is at the top."""
    if values:
        low, high = values[len(values) // 20], values[-1]
        margin = 0.06 * (high - low) + 0.002
        axis.set_ylim(low - margin, high + margin)
