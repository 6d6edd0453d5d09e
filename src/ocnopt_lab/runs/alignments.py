"""Which alignment a bandit chose when: one strip per block, and the share of each alignment so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ocnopt_lab.errors import writing
from ocnopt_lab.runs.axes import plain

Decisions = Mapping[str, Sequence[tuple[int, int, float]]]
"""Per block: (first step of a period, alignment, reward)."""

# Okabe and Ito's palette, as for the curves.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def draw(path: Path, title: str, decisions: Decisions) -> None:
    """Writes the picture: left a mark for every period at the alignment it played, right the shares as they grew."""
    figure = Figure(figsize=(11, 1.2 + 1.6 * len(decisions)), layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
    rows = figure.subplots(len(decisions), 2, sharex=True, squeeze=False)
    most = max(arm for plays in decisions.values() for _, arm, _ in plays) + 1
    for (left, right), (block, plays) in zip(rows, decisions.items(), strict=True):
        _played(left, block, plays)
        _shares(right, plays)
    for axis, name in zip(rows[-1], ("step", "step"), strict=True):
        axis.set_xlabel(name)
    handles = [Line2D([], [], color=_colour(arm), lw=4, label=f"alignment {arm}") for arm in range(most)]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(most, 6), frameon=False, fontsize=11)
    with writing(path):
        figure.savefig(path, dpi=130)


def _colour(arm: int) -> str:
    return _COLOURS[arm % len(_COLOURS)]


def _played(axis: Axes, block: str, plays: Sequence[tuple[int, int, float]]) -> None:
    """The height of a mark within its lane is the reward."""
    for arm in sorted({arm for _, arm, _ in plays}):
        played = [(step, arm - 0.4 + 0.8 * reward) for step, chosen, reward in plays if chosen == arm]
        steps, heights = zip(*played, strict=True)
        axis.scatter(steps, heights, s=9, color=_colour(arm), linewidths=0)
    axis.set_ylabel(f"{block}\nalignment, reward", fontsize=9)
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_ylim(-0.6, max(arm for _, arm, _ in plays) + 0.6)
    plain(axis)


def _shares(axis: Axes, plays: Sequence[tuple[int, int, float]]) -> None:
    for arm in sorted({arm for _, arm, _ in plays}):
        counts = [sum(chosen == arm for _, chosen, _ in plays[: j + 1]) / (j + 1) for j in range(len(plays))]
        axis.plot([step for step, _, _ in plays], counts, color=_colour(arm), linewidth=2)
    axis.set_ylim(0, 1.02)
    axis.set_ylabel("share of periods", fontsize=9)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    plain(axis)
