"""Summaries of runs as a table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from ocnopt_lab.runs.folder import Row
from ocnopt_lab.tasks import Measure

_COLUMNS = ("training loss", "seconds", "ms per step", "peak memory MB", "growth MB")


def table(title: str, measure: Measure, summaries: Sequence[Row], names: Sequence[str] | None = None) -> Table:
    """One line per run, called by `names` or by its optimizer; seconds are those spent in training steps."""
    result = Table(title=title)
    result.add_column("optimizer", no_wrap=True)
    for column in (measure.label, *_COLUMNS):
        result.add_column(column, justify="right")
    for name, summary in zip(names or [summary["optimizer"] for summary in summaries], summaries, strict=True):
        result.add_row(name, measure.text(summary[measure.column]), *_cells(summary))
    return result


def _cells(summary: Row) -> list[str]:
    loss, per_step = summary["train_loss"], summary["seconds_per_step"]
    return [
        "not finite" if loss is None else f"{loss:.3g}",
        f"{summary['seconds']:.1f}",
        f"{1000 * per_step:.2f}",
        f"{summary['peak_memory_mb']:.0f}",
        f"{summary['memory_growth_mb']:.0f}",
    ]
