"""How all pictures look."""

from __future__ import annotations

from matplotlib.axes import Axes


def plain(axis: Axes) -> None:
    """A light grid, and no frame above and on the right."""
    axis.grid(color="#DDDDDD", linewidth=0.7)
    axis.spines[["top", "right"]].set_visible(False)
