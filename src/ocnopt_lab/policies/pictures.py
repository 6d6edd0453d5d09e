"""Pictures of policies: what each layer reacts to, and how strongly, through training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from ocnopt_lab.errors import writing
from ocnopt_lab.policies.history import Moment
from ocnopt_lab.runs.axes import plain

_MOST_IN_A_ROW = 5  # entries of a legend
_COLOURS = 3  # channels of an image
Map = NDArray[np.float64]


@dataclass(frozen=True)
class Strip:
    """One row of small pictures, each with values in [-1, 1], or images in [0, 1]."""

    label: str
    maps: Sequence[Map]
    colours: str = "RdBu_r"


def grid(path: Path, title: str, heads: Sequence[str], strips: Sequence[Strip]) -> None:
    """Writes the strips below one another; `heads` stand above the columns."""
    figure = Figure(figsize=(1.6 + 1.15 * len(heads), 0.9 + 1.15 * len(strips)), layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots(len(strips), len(heads), squeeze=False)
    for line, strip in zip(axes, strips, strict=True):
        for axis, shown in zip(line, strip.maps, strict=True):
            low = 0 if strip.colours == "gray" else -1
            axis.imshow(shown, cmap=strip.colours, vmin=low, vmax=1, interpolation="nearest", aspect="auto")
            axis.set(xticks=[], yticks=[])
        line[0].set_ylabel(strip.label, fontsize=9, rotation=0, ha="right", va="center")
    for axis, head in zip(axes[0], heads, strict=True):
        axis.set_title(head, fontsize=9)
    with writing(path):
        figure.savefig(path, dpi=130)


def signed(v: Tensor) -> Map:
    """A direction as a map in [-1, 1]: the sum over the channels of an image, the strongest channel of a hidden state,
    a vector folded to a rectangle."""
    v = v.double()
    if v.dim() >= 3:
        v = v.sum(0) if len(v) <= _COLOURS else v[int(v.flatten(1).norm(dim=1).argmax())]
    flat = v.reshape(-1) if v.dim() != 2 else v
    folded = folded_to_rectangle(flat) if flat.dim() == 1 else flat.numpy()
    top = np.nanmax(np.abs(folded))
    return folded / top if top > 0 else folded


def folded_to_rectangle(v: Tensor) -> Map:
    """(n,) as the widest rectangle that is no wider than four times its height, filled up with NaN."""
    height = max(1, round((len(v) / 2) ** 0.5))
    width = -(-len(v) // height)
    out = np.full(height * width, np.nan)
    out[: len(v)] = v.numpy()
    return out.reshape(height, width)


def seen(x: Tensor) -> Map:
    """An image (C, H, W) in [0, 1]: colours as they are for three channels, grey otherwise."""
    x = x.double()
    image = x.permute(1, 2, 0).numpy() if len(x) == _COLOURS else x.mean(0).numpy()
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else np.zeros_like(image)


def through_training(path: Path, title: str, moments: Sequence[Moment]) -> None:
    """Writes ‖K_t‖ of every layer against epochs, early layers dark and late ones light."""
    layers = list(dict.fromkeys(layer for moment in moments for layer in moment.gains))
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    figure.suptitle(title, fontsize=11, fontweight="bold", x=0.01, ha="left")
    axis = figure.subplots()
    shades = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(layers)))
    for layer, shade in zip(layers, shades, strict=True):
        points = [(m.epoch, m.gains[layer]) for m in moments if m.gains.get(layer, 0) > 0]
        axis.plot(*zip(*points, strict=True), label=layer, color=shade, marker="o", markersize=4) if points else None
    _frame(axis)
    figure.legend(loc="outside lower center", ncols=min(len(layers), _MOST_IN_A_ROW), frameon=False, fontsize=9)
    with writing(path):
        figure.savefig(path, dpi=130)


def _frame(axis: Axes) -> None:
    plain(axis)
    axis.set(xlabel="epoch", ylabel="gain ‖K‖ of the layer", yscale="log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
