"""Pictures of studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from ocnopt_lab.errors import writing
from ocnopt_lab.runs.axes import plain
from ocnopt_lab.studies.arms import Arm
from ocnopt_lab.studies.curves import Style
from ocnopt_lab.studies.statistics import Profile

# Okabe and Ito's palette: told apart by colour-blind readers too. Rivals are cool or grey, ours are warm.
_OURS = ("#D55E00", "#E69F00", "#8B1A1A", "#CC79A7", "#B8860B")
_RIVALS = ("#0072B2", "#56B4E9", "#009E73", "#7F7F7F", "#7B6BB5", "#000000", "#9BB8D3", "#004B75")
_DASHES = ("-", "--", ":")
_DPI = 130
_PLAIN = LogFormatter(minor_thresholds=(1, 0.5))


def styles(methods: Mapping[str, bool]) -> Style:
    """Lines for these methods; those that are ours have warm colours and are thicker."""
    found: dict[str, dict[str, Any]] = {}
    for own, palette in ((True, _OURS), (False, _RIVALS)):
        for index, name in enumerate(name for name, ours in methods.items() if ours == own):
            dash = _DASHES[index // len(palette) % len(_DASHES)]
            found[name] = {"color": palette[index % len(palette)], "linestyle": dash, "linewidth": 2.2 if own else 1.4}
    return found.__getitem__


def draw_rates(path: Path, arms: Mapping[str, Sequence[Arm]], style: Style) -> None:
    """Training loss against the learning rate, a panel per problem: medians, and intervals as bars."""
    figure = Figure(figsize=(2 + 5 * len(arms), 4.8), layout="constrained")
    panels = figure.subplots(1, len(arms), squeeze=False)[0]
    for axis, (problem, own) in zip(panels, arms.items(), strict=True):
        for method in dict.fromkeys(arm.method for arm in own):
            _rates(axis, [arm for arm in own if arm.method == method], style(method))
        axis.set(xscale="log", yscale="log", title=problem, xlabel="learning rate, or multiplier of the search's step")
        axis.yaxis.set_minor_formatter(_PLAIN)
        plain(axis)
    panels[0].set_ylabel("training loss after the last epoch")
    _legend(figure, panels)
    _save(figure, path)


def _rates(axis: Axes, arms: Sequence[Arm], style: dict[str, Any]) -> None:
    """A rate at which the median run diverged has no point; the line ends before it."""
    found = [(arm.rate, arm.estimate()) for arm in arms]
    finite = [(rate, x) for rate, x in found if np.isfinite(x.median)]
    if not finite:
        axis.plot([], [], label=f"{arms[0].method} (diverged)", **style)
        return
    rates, middles = zip(*((rate, x.median) for rate, x in finite), strict=True)
    ends = [(x.median - x.low, (x.high if np.isfinite(x.high) else x.median) - x.median) for _, x in finite]
    bars = np.array(ends).T
    axis.errorbar(rates, middles, yerr=bars, label=arms[0].method, marker="o", markersize=4, capsize=2, **style)


def draw_profile(path: Path, profile: Profile, label: str, style: Style) -> None:
    """Shares of instances over ratios to the cheapest method; `label` says what the ratios are of."""
    figure = Figure(figsize=(7, 4.8), layout="constrained")
    axis = figure.subplots()
    end = max(2.0, 1.2 * float(profile.ratios[-1]))
    for method, shares in profile.shares.items():
        axis.step([*profile.ratios, end], [*shares, shares[-1]], where="post", label=method, **style(method))
    axis.set(xscale="log", xlim=(1, end), ylim=(-0.02, 1.02), xlabel=label, ylabel="share of problems and seeds")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axis.xaxis.set_major_formatter(_PLAIN)
    axis.xaxis.set_minor_formatter(_PLAIN)
    plain(axis)
    _legend(figure, [axis])
    _save(figure, path)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    known = {label: handle for axis in panels for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(known.values(), known, loc="outside lower center", ncols=min(len(known), 4), frameon=False)


def _save(figure: Figure, path: Path) -> None:
    with writing(path):
        figure.savefig(path, dpi=_DPI)
