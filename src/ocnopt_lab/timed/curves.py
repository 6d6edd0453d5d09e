"""Pictures of what methods reach over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.figure import Figure

from .clock import Mark

TINY = 1e-16
"""Values below are drawn here."""
LABELS = {"error": "relative L² error", "loss": "training loss"}


def draw_curves(path: Path, title: str, marks: Mapping[str, Sequence[Mark]], what: Literal["error", "loss"]) -> None:
    """Relative error or loss over seconds."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, found in marks.items():
        style: dict[str, Any] = {"lw": 2.5} if name.startswith("ocnopt") else {"lw": 1.2, "alpha": 0.8}
        axis.plot([m.seconds for m in found], [max(getattr(m, what), TINY) for m in found], label=name, **style)
    axis.set(xlabel="seconds", ylabel=LABELS[what], title=title, xscale="log", yscale="log")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
