"""What ``coverage()`` and ``diagnostics()`` tell: who updates each parameter, and why so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .gathering import Turn
from .players import Refusal
from .seats import Seat


class Row(NamedTuple):
    """One line of ``OCNOpt.coverage()``: a parameter, its player and metric, whether it takes part in the feedback."""

    parameter: str
    player: str
    metric: str
    feedback: bool
    reason: str


class Report:
    """Remembers of the last step what coverage and diagnostics want, without holding on to its tensors."""

    def __init__(self, seats: Sequence[Seat]) -> None:
        self.seats = seats
        self.last: dict[str, Row] = {}

    def update(self, turns: Sequence[Turn]) -> None:
        for turn in turns:
            player = "none" if turn.player is None else kind(turn.player)
            metric = kind(turn.metric)
            for name in turn.names:
                path = dotted(turn.seat.path, name)
                self.last[path] = Row(path, player, metric, turn.feedback, turn.reason)

    def rows(self) -> list[Row]:
        """Each parameter once; a parameter of several modules stands at the first."""
        seen: set[int] = set()
        rows = []
        for seat in self.seats:
            for name, p in zip(seat.names, seat.tensors(seat.names), strict=True):
                if id(p) not in seen:
                    seen.add(id(p))
                    rows.append(self.last.get(dotted(seat.path, name)) or before_a_step(seat, name, p.requires_grad))
        return rows

    def numbers(self) -> dict[str, float]:
        rows = self.rows()
        return {"parameters with feedback": sum(row.feedback for row in rows), "parameters": len(rows)}


def before_a_step(seat: Seat, name: str, trains: bool) -> Row:
    """What can be said of a parameter that no step has moved yet."""
    player = seat.player(seat.names)
    if isinstance(player, Refusal):
        return Row(dotted(seat.path, name), "none", "none yet", False, player.reason)
    reason = "no step has moved it yet" if trains else "frozen: requires_grad is False"
    return Row(dotted(seat.path, name), kind(player), "none yet", False, reason)


def kind(x: object) -> str:
    """LinearPlayer → linear, EigenMetric → eigen."""
    name = type(x).__name__
    return name.removesuffix("Player").removesuffix("Metric").lower()


def dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
