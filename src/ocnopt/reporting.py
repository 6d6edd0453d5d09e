"""What ``coverage()`` and ``diagnostics()`` tell: who updates each parameter, and why so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor
from torch.utils._pytree import tree_leaves

from .gathering import Turn
from .players import Refusal
from .seats import Seat


class Row(NamedTuple):
    """One line of ``OCNOpt.coverage()``: a parameter, its player and metric, whether it takes part in the feedback.

    reason: why it does not.  terminal: the terminal factor of the feedback it takes part in.
    shares: the paths of all layers that share its stage in a game, "" where it has one of its own.
    """

    parameter: str
    player: str
    metric: str
    feedback: bool
    reason: str
    terminal: str = ""
    shares: str = ""


class Coverage(list[Row]):
    """The rows of ``OCNOpt.coverage()``: a list, whose ``str`` is a table, and which rich prints as one."""

    @property
    def columns(self) -> list[str]:
        """Those that say something: some row has an entry."""
        return [name for name in Row._fields if any(getattr(row, name) != "" for row in self)]

    def cells(self) -> list[list[str]]:
        """One text for every row and column."""
        columns = self.columns
        return [[told(getattr(row, name)) for name in columns] for row in self]

    def __str__(self) -> str:
        return aligned([self.columns, *self.cells()])

    def __rich__(self) -> object:
        """A ``rich.table.Table``; rich is there, since it asks."""
        from rich import box, table, text

        shown = table.Table(*self.columns, box=box.SIMPLE)
        for cells in self.cells():
            shown.add_row(*map(text.Text, cells))  # a name in brackets is no markup
        return shown


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a table in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = (zip(line, widths, strict=True) for line in lines)
    return "\n".join("  ".join(cell.ljust(width) for cell, width in pairs).rstrip() for pairs in padded)


def told(entry: str | bool) -> str:
    return entry if isinstance(entry, str) else "yes" if entry else "no"


class Report:
    """Remembers of the last step what coverage and diagnostics want, without holding on to its tensors.

    held: bytes of each seat's inputs and cotangents for every sample that was kept, of the first step it moved in.
    """

    def __init__(self, seats: Sequence[Seat]) -> None:
        self.seats = seats
        self.last: dict[str, Row] = {}
        self.held: dict[str, int] = {}

    def update(self, turns: Sequence[Turn], resting: bool) -> None:
        """Of this step; of what the feedback did to a parameter, where it rests, the last step that had it."""
        known = self.last if resting else {}
        self.last = {row.parameter: known.get(row.parameter, row) for turn in turns for row in rows_of(turn)}
        self.held |= {turn.seat.path: held_of(turn) for turn in turns if turn.calls and turn.seat.path not in self.held}

    def rows(self) -> Coverage:
        """Each parameter once; a parameter of several modules stands at the first."""
        pairs = ((seat, name) for seat in self.seats for name in seat.names)
        return Coverage(self.last.get(seat.dotted(name)) or self.unmoved(seat, name) for seat, name in pairs)

    def unmoved(self, seat: Seat, name: str) -> Row:
        """What can be said of a parameter that the last step did not move."""
        player = seat.player(seat.names)
        row = Row(seat.dotted(name), "none", "none yet", False, "")
        if isinstance(player, Refusal):
            return row._replace(reason=player.reason)
        return row._replace(player=kind(player), reason=self.stillness(*seat.tensors((name,))))

    def stillness(self, p: Tensor) -> str:
        if not p.requires_grad:
            return "It is frozen: requires_grad is False."
        return "It had no gradient in the last step." if self.last else "No step has moved it yet."

    def numbers(self) -> dict[str, float]:
        rows = self.rows()
        return {"parameters with feedback": sum(row.feedback for row in rows), "parameters": len(rows)}


def held_of(turn: Turn) -> int:
    """Bytes of inputs and cotangents over all calls, for each sample."""
    parts = tree_leaves([(call.args, call.kwargs, call.leaves, call.columns) for call in turn.calls])
    tensors = (x for x in parts if isinstance(x, Tensor) and x.dim() and len(x))
    return sum(x.numel() * x.element_size() // len(x) for x in tensors)


def rows_of(turn: Turn) -> Iterator[Row]:
    player = "none" if turn.player is None else kind(turn.player)
    for name in turn.names:
        told = turn.feedback, turn.reason, turn.terminal, turn.shares
        yield Row(turn.seat.dotted(name), player, kind(turn.metric), *told)


def kind(x: object) -> str:
    """LinearPlayer → linear, EigenMetric → eigen."""
    name = type(x).__name__
    return name.removesuffix("Player").removesuffix("Metric").lower()
