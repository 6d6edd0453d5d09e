"""A profile as a table on the terminal, as Markdown and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from ocnopt_lab.profiling.memory import Memory
from ocnopt_lab.profiling.timing import Ratio, ratio
from ocnopt_lab.profiling.variants import BASELINE

_HEADER = ("variant", "ms/step", "x Adam", "95 %", "mean x Adam", "peak MB", "x Adam", "growth MB", "x Adam")


@dataclass(frozen=True)
class Line:
    """One variant: milliseconds per step (median of blocks), ratios to torch's Adam, memory in MB."""

    variant: str
    ms_per_step: float
    time: Ratio
    mean_time_ratio: float
    memory: Memory
    peak_ratio: float
    growth_ratio: float

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of the header."""
        return (
            self.variant,
            f"{self.ms_per_step:.2f}",
            f"{self.time.value:.2f}",
            f"{self.time.low:.2f}-{self.time.high:.2f}",
            f"{self.mean_time_ratio:.2f}",
            f"{self.memory.peak:.0f}",
            f"{self.peak_ratio:.2f}",
            f"{self.memory.growth:.1f}",
            f"{self.growth_ratio:.2f}",
        )


def lines(blocks: dict[str, NDArray[np.float64]], memory: dict[str, Memory]) -> list[Line]:
    """The ratios of every variant to the baseline."""
    base_blocks, base_memory = blocks[BASELINE], memory[BASELINE]
    return [
        Line(
            variant=name,
            ms_per_step=1000 * float(np.median(blocks[name])),
            time=ratio(blocks[name], base_blocks),
            mean_time_ratio=float(blocks[name].mean() / base_blocks.mean()),
            memory=memory[name],
            peak_ratio=memory[name].peak / base_memory.peak,
            growth_ratio=memory[name].growth / base_memory.growth if base_memory.growth else float("nan"),
        )
        for name in blocks
    ]


def rich_table(title: str, rows: Sequence[Line]) -> Table:
    """For the terminal."""
    table = Table(_HEADER[0], title=title)
    for column in _HEADER[1:]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*row.cells())
    return table


def markdown(title: str, rows: Sequence[Line], settings: dict[str, Any]) -> str:
    """The same table and the settings it was measured with."""
    table = ["| " + " | ".join(cells) + " |" for cells in (_HEADER, *(row.cells() for row in rows))]
    table.insert(1, "|---|" + "---:|" * (len(_HEADER) - 1))
    facts = [f"- {key}: {value}" for key, value in settings.items()]
    return "\n".join([f"# {title}", "", *table, "", *facts, ""])


def to_dict(rows: Sequence[Line], blocks: dict[str, NDArray[np.float64]]) -> dict[str, Any]:
    """All numbers, with the mean seconds per step of every block."""
    return {row.variant: {**asdict(row), "block_seconds": blocks[row.variant].tolist()} for row in rows}
