"""Pictures of a solution and of what each method has made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ocnopt_lab.timed.curves import TINY

from .equation import Equation


def draw(path: Path, equation: Equation, exact: Tensor, found: Mapping[str, Tensor]) -> None:
    """The solution, and of every method |u − solution| on one logarithmic scale."""
    figure = Figure(figsize=(4.2 * (1 + len(found)), 3.8), layout="constrained")
    axes = figure.subplots(1, 1 + len(found), squeeze=False)[0]
    errors = {name: (u - exact).abs().clamp(min=TINY).log10().numpy() for name, u in found.items()}
    figure.suptitle(equation.title)
    if len(equation.box) == 1:
        lines(axes, equation, exact, found, errors)
    else:
        maps(axes, equation, exact, errors)
    figure.savefig(path, dpi=110)


def lines(
    axes: Sequence[Axes],
    equation: Equation,
    exact: Tensor,
    found: Mapping[str, Tensor],
    errors: Mapping[str, np.ndarray],
) -> None:
    x = equation.grid()[:, 0]
    axes[0].plot(x, exact[:, 0], "k", lw=3, alpha=0.3, label="solution")
    for name, u in found.items():
        axes[0].plot(x, u[:, 0], lw=1, label=name)
    axes[0].legend()
    low, high = bounds(errors)
    for axis, (name, error) in zip(axes[1:], errors.items(), strict=True):
        axis.plot(x, error[:, 0])
        axis.set(title=f"{name}: log₁₀ |error|", ylim=(low, high))
    for axis in axes:
        axis.set_xlabel(equation.names[0])


def maps(axes: Sequence[Axes], equation: Equation, exact: Tensor, errors: Mapping[str, np.ndarray]) -> None:
    low, high = bounds(errors)
    image(axes[0], equation, exact.numpy(), "solution", cmap="RdBu_r")
    for axis, (name, error) in zip(axes[1:], errors.items(), strict=True):
        image(axis, equation, error, f"{name}: log₁₀ |error|", vmin=low, vmax=high)


def image(axis: Axes, equation: Equation, values: np.ndarray, title: str, **options: Any) -> None:
    """Over two coordinates, the second one across: time, where there is one."""
    side = round(len(values) ** 0.5)
    (left, right), (bottom, top) = equation.box[1], equation.box[0]
    shown = axis.imshow(
        values.reshape(side, side), origin="lower", extent=(left, right, bottom, top), aspect="auto", **options
    )
    axis.figure.colorbar(shown, ax=axis)
    axis.set(title=title, xlabel=equation.names[1], ylabel=equation.names[0])


def bounds(errors: Mapping[str, np.ndarray]) -> tuple[float, float]:
    """From the smallest 2 % of any method up to the largest error."""
    return min(float(np.quantile(e, 0.02)) for e in errors.values()), max(float(e.max()) for e in errors.values())
