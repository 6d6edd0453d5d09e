"""From proposed steps to new parameters, here at a fixed rate by torch's own rules.

Every method answers the same two questions: how long is a proposal by itself (``scale``, the 1/M of the
Bellman pass), and what becomes of the parameters (``apply``). The one that asks the Bellman model is in
``searching``, those that measure first are in ``trials``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from .core.bellman import Pace
from .curvature import Curvature, Diagonal, Kronecker
from .gathering import Group, Turn
from .played import Played

SMALLEST = 1e-12
"""A rate of zero, at the end of a schedule, still has a metric: the proposal vanishes, and momentum goes on."""

Clock = dict[str, Any]
"""What a search remembers between steps: plain numbers, kept in the first parameter group."""


class Method(Protocol):
    """A search with its curvature."""

    @property
    def needs_responses(self) -> bool:
        """Whether the terminal condition is wanted without feedback, too."""
        ...

    @property
    def curvature(self) -> Curvature: ...

    @property
    def decoupled_decay(self) -> bool:
        """Whether weight decay is no part of Q_θ."""
        ...

    def scale(self, turn: Turn) -> list[float]:
        """The length of a proposal by itself, for every parameter of the turn."""
        ...

    def damping(self, clock: Clock) -> float:
        """λ of Kronecker metrics."""
        ...

    def previous(self, turn: Turn) -> tuple[Tensor, ...] | None:
        """The last step, where momentum takes it up again."""
        ...

    def pace(self, clock: Clock, lr: float) -> Pace:
        """How much of a proposal will be taken."""
        ...

    def apply(self, turns: Sequence[Turn], played: Played | None, clock: Clock) -> None:
        """Move the parameters of all turns."""
        ...

    def steers(self, turn: Turn) -> bool:
        """Whether a turn that takes part moves by its own step, not by the diagonal's rule."""
        ...

    def beginning(self) -> Clock:
        """What the clock shows before the first step."""
        ...


def diagonal_of(curvature: Curvature) -> tuple[Diagonal, float]:
    """The rule for parameters outside the Kronecker curvature, and its rate at lr = 1."""
    if isinstance(curvature, Kronecker):
        return curvature.companion, curvature.companion_lr
    return curvature, 1.0


def apply_diagonal(turns: Iterable[Turn], curvature: Curvature, rate: float = 1.0) -> None:
    """The diagonal rule on the effective gradients of the turns, one foreach call for each group."""
    rule, companion_rate = diagonal_of(curvature)
    for entries in by_group((turn, pairs_of(turn)) for turn in turns):
        settings = {**entries.group, "lr": entries.group["lr"] * rate * companion_rate}
        params, states = entries.params, entries.states
        effective = [g.to(p.dtype) for (g, _), p in zip(entries.values, params, strict=True)]
        known = [d for _, d in entries.values if d is not None]
        if len(known) == len(effective):
            rule.apply(params, effective, known, states, settings)
        else:
            rule.whole(params, effective, states, settings, entries.bound)


def pairs_of(turn: Turn) -> list[tuple[Tensor, Tensor | float | None]]:
    """The effective gradient of every parameter, and its denominator where somebody has asked for it."""
    known: Sequence[Tensor | float | None] = turn.denominators or [None] * len(turn.params)
    return [*zip(turn.effective, known, strict=True)]


@dataclass(eq=False)
class Entries:
    """Parameters of one group over all turns, with a value for each, their states, and a bound on their gradients."""

    group: Group
    bound: float
    params: list[Tensor] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)


def by_group(shares: Iterable[tuple[Turn, Sequence[Any]]]) -> Collection[Entries]:
    """Turns, each with one value for each of its parameters, by parameter group."""
    out: dict[int, Entries] = {}
    for turn, values in shares:
        for p, x, state, group in zip(turn.params, values, turn.states, turn.groups, strict=True):
            entries = out.setdefault(id(group), Entries(group, turn.bound))
            entries.params.append(p)
            entries.values.append(x)
            entries.states.append(state)
    return out.values()


@dataclass(frozen=True)
class Fixed:
    """search="fixed": lr is the step; momentum by the rule of the curvature, heavy ball for KFAC and EKFAC."""

    curvature: Curvature
    needs_responses = False

    @property
    def decoupled_decay(self) -> bool:
        return diagonal_of(self.curvature)[0].decoupled_decay

    def scale(self, turn: Turn) -> list[float]:
        rate = 1.0 if turn.kronecker else diagonal_of(self.curvature)[1]
        return [max(group["lr"], SMALLEST) * rate for group in turn.groups]

    def damping(self, clock: Clock) -> float:
        return self.curvature.damping if isinstance(self.curvature, Kronecker) else 0.0

    def previous(self, turn: Turn) -> tuple[Tensor, ...] | None:
        """The part of the coming step that momentum already holds; the rules of diagonal curvatures keep their own."""
        if not turn.kronecker or "momentum_buffer" not in turn.states[0]:
            return None
        pairs = zip(turn.states, turn.groups, strict=True)
        return tuple(-group["lr"] * group["momentum"] * state["momentum_buffer"] for state, group in pairs)

    def pace(self, clock: Clock, lr: float) -> Pace:
        return Pace(1.0, 1.0)

    def steers(self, turn: Turn) -> bool:
        return turn.kronecker

    def beginning(self) -> Clock:
        return {"step": 0}

    def apply(self, turns: Sequence[Turn], played: Played | None, clock: Clock) -> None:
        apply_diagonal((turn for turn in turns if not turn.kronecker), self.curvature)
        for turn in turns:
            if turn.kronecker:
                for p, d, state, group in zip(turn.params, turn.step, turn.states, turn.groups, strict=True):
                    ball = d / -max(group["lr"], SMALLEST) + group["momentum"] * state.get("momentum_buffer", 0.0)
                    state["momentum_buffer"] = ball
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(ball.to(p.dtype), alpha=-group["lr"])
