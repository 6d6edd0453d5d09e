"""A density in the plane as a picture: samples of the data, samples of the flow, and the flow's log density."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ocnopt_lab.errors import writing

REACH = 4.5
"""The picture shows the square from -REACH to REACH."""
DEPTH = 8.0
"""Logarithmic densities this far below the highest one are drawn as the lowest."""


@dataclass(frozen=True)
class Density:
    """What is drawn: samples of the data and of the flow, each (n, 2), and log p as a function of points (n, 2)."""

    data: Tensor
    samples: Tensor
    log_prob: Callable[[Tensor], Tensor]


def draw_density(path: Path, title: str, density: Density, resolution: int = 120) -> None:
    """Writes the picture."""
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    figure.suptitle(title, fontsize=14, fontweight="bold", x=0.01, ha="left")
    data, samples, image = figure.subplots(1, 3)
    _scatter(data, "data", density.data, "#0072B2")
    _scatter(samples, "samples of the flow", density.samples, "#D55E00")
    grid = log_density_on_grid(density.log_prob, resolution)
    shown = image.imshow(
        grid.numpy(),
        origin="lower",
        extent=(-REACH, REACH, -REACH, REACH),
        cmap="magma",
        vmin=float(grid.max()) - DEPTH,
    )
    _frame(image, "log density of the flow")
    figure.colorbar(shown, ax=image, shrink=0.85)
    with writing(path):
        figure.savefig(path, dpi=130)


@torch.no_grad()
def log_density_on_grid(log_prob: Callable[[Tensor], Tensor], resolution: int) -> Tensor:
    """log p at the points of a square grid, (resolution, resolution), the second coordinate first."""
    line = torch.linspace(-REACH, REACH, resolution)
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y], dim=-1).reshape(-1, 2)
    parts = [log_prob(part) for part in points.split(4096)]
    return torch.cat(parts).reshape(resolution, resolution).cpu()


def _scatter(axis: Axes, title: str, points: Tensor, colour: str) -> None:
    x, y = points.detach().cpu().unbind(1)
    axis.scatter(x.numpy(), y.numpy(), s=3, alpha=0.4, color=colour, linewidths=0)
    _frame(axis, title)


def _frame(axis: Axes, title: str) -> None:
    axis.set(title=title, xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal")
    axis.tick_params(labelsize=8)
