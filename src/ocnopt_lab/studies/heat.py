"""Heat maps of scores over learning rates and a knob: with feedback, without, and the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ocnopt_lab.errors import writing
from ocnopt_lab.studies.summaries import heading
from ocnopt_lab.studies.tables import score_form
from ocnopt_lab.tasks import Measure

_TITLES = ("with feedback", "without feedback", "what feedback adds")
_DIVERGED, _DIVERGING = "#BBBBBB", "RdBu"


@dataclass(frozen=True)
class Maps:
    """Scores (2, K, R) of one problem: with feedback and without, over K values of the knob and R rates."""

    problem: str
    measure: Measure
    knob: str
    knobs: Sequence[float]
    rates: Sequence[float]
    scores: NDArray

    def gain(self) -> NDArray:
        """How much better with feedback, (K, R); not a number where both diverged, infinite where one did."""
        on, off = np.where(np.isfinite(self.scores), self.scores, np.inf if self.measure.best is min else -np.inf)
        with np.errstate(invalid="ignore"):
            return on - off if self.measure.best is max else off - on


def draw(path: Path, problems: Sequence[Maps]) -> None:
    """A row of three maps per problem."""
    columns = max(len(maps.rates) for maps in problems)
    figure = Figure(figsize=(3 + 3 * max(3.0, 0.5 * columns), 0.6 + 2.9 * len(problems)), layout="constrained")
    for line, maps in zip(figure.subplots(len(problems), 3, squeeze=False), problems, strict=True):
        finite = maps.scores[np.isfinite(maps.scores)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        for axis, scores in zip(line[:2], maps.scores, strict=True):
            _map(axis, maps, scores, "viridis" if maps.measure.best is max else "viridis_r", (low, high))
        gain = maps.gain()
        largest = max(np.abs(gain[np.isfinite(gain)]).max(initial=0.0), 1e-12)
        _map(line[2], maps, gain, _DIVERGING, (-largest, largest))
        line[0].set_ylabel(f"{maps.problem}\n{maps.knob}")
        for axis, title in zip(line, _TITLES, strict=True):
            axis.set_title(f"{title}: {heading(maps.measure)}", fontsize=10)
    with writing(path):
        figure.savefig(path, dpi=130)


def _map(axis: Axes, maps: Maps, values: NDArray, colours: str, limits: tuple[float, float]) -> None:
    """One map, the value in each cell. An infinite difference has the colour of its end, what diverged is grey."""
    colormap = matplotlib.colormaps[colours].with_extremes(bad=_DIVERGED)
    lost = np.isnan(values) if colours == _DIVERGING else ~np.isfinite(values)
    shown = np.ma.masked_array(np.clip(np.nan_to_num(values), *limits), lost)
    image = axis.imshow(shown, cmap=colormap, aspect="auto", origin="lower", vmin=limits[0], vmax=limits[1])
    form = score_form(maps.measure)
    for (k, r), value in np.ndenumerate(values):
        dark = not lost[k, r] and np.mean(colormap(image.norm(shown.data[k, r]))[:3]) < 0.5
        text = "" if np.isnan(value) else form(value)
        axis.text(r, k, text, ha="center", va="center", fontsize=6, color="white" if dark else "black")
    axis.set_xticks(range(len(maps.rates)), [f"{rate:.3g}" for rate in maps.rates], rotation=45, fontsize=7)
    axis.set_yticks(range(len(maps.knobs)), [f"{knob:g}" for knob in maps.knobs], fontsize=8)
    axis.set_xlabel("learning rate")
