"""From proposed steps to new parameters: at a fixed rate by torch's own rules, or by the Bellman model.

Every method answers the same two questions: how long is a proposal by itself (``scale``, the 1/M of the
Bellman pass), and what becomes of the parameters (``apply``). Those that measure first are in ``trials``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from .core.bellman import Pace
from .core.search import Model, Quadratic, Trust, bellman_quadratic
from .curvature import Curvature, Diagonal, Kronecker
from .gathering import Group, Turn
from .played import Played, directions, weighted_core

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
    for entries in by_group(turns).values():
        params, effective, states = (list(column) for column in zip(*entries.items, strict=True))
        settings = {**entries.group, "lr": entries.group["lr"] * rate * companion_rate}

        rule.apply(params, effective, rule.denominators(states, settings), states, settings)


@dataclass(eq=False)
class Entries:
    group: Group
    items: list[tuple[Tensor, Tensor, dict[str, Any]]]


def by_group(turns: Iterable[Turn]) -> dict[int, Entries]:
    """(parameter, effective gradient, state) of all turns, by parameter group."""
    out: dict[int, Entries] = {}
    for turn in turns:
        for p, g, state, group in zip(turn.params, turn.effective, turn.states, turn.groups, strict=True):
            out.setdefault(id(group), Entries(group, [])).items.append((p, g.to(p.dtype), state))
    return out


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


@dataclass(frozen=True)
class Searched:
    """search="model": the Bellman quadratic gives step length and heavy ball together; lr multiplies the outcome.

    The previous direction u enters unmultiplied, p ← p + lr·u with u ← α₁ δθ + α₂ u. Parameters outside the
    feedback follow with the same α₁ where their metric is a curvature, at the diagonal's rate otherwise.
    """

    curvature: Curvature
    model: Model
    needs_responses = True

    @property
    def decoupled_decay(self) -> bool:
        return diagonal_of(self.curvature)[0].decoupled_decay

    def scale(self, turn: Turn) -> list[float]:
        unit = 1.0 if turn.kronecker else self.unit()
        return [unit] * len(turn.params)

    def unit(self) -> float:
        rule, rate = diagonal_of(self.curvature)
        return rate if isinstance(self.curvature, Kronecker) else rule.unit

    def damping(self, clock: Clock) -> float:
        return clock.setdefault("damping", self.model.start)

    def previous(self, turn: Turn) -> tuple[Tensor, ...] | None:
        if any("direction" not in state for state in turn.states):
            return None
        return tuple(state["direction"] for state in turn.states)

    def pace(self, clock: Clock, lr: float) -> Pace:
        return Pace(lr * clock.get("length", 1.0), lr * clock.get("momentum", 0.0))

    def steers(self, turn: Turn) -> bool:
        return turn.player is not None

    def beginning(self) -> Clock:
        state = dict.fromkeys(("overshoot", "slope", "momentum", "predicted"), 0.0)
        return {"step": 0, "damping": self.model.start, "length": 1.0, **state}

    def apply(self, turns: Sequence[Turn], played: Played | None, clock: Clock) -> None:
        alpha = (1.0, 0.0) if played is None else self.search(played, clock)
        for turn in turns:
            if turn.step:
                self.move(turn, *alpha)
        still = [turn for turn in turns if not turn.step]
        rule, _ = diagonal_of(self.curvature)
        apply_diagonal(still, self.curvature, 1.0 if isinstance(self.curvature, Kronecker) else rule.default_lr)

    def move(self, turn: Turn, length: float, momentum: float) -> None:
        previous = self.previous(turn)
        for j, (p, d, state, group) in enumerate(zip(turn.params, turn.step, turn.states, turn.groups, strict=True)):
            u = length * d if previous is None else length * d + momentum * previous[j]
            state["direction"] = u
            if self.decoupled_decay:
                p.mul_(1 - group["lr"] * length * group["weight_decay"])
            p.add_(u.to(p.dtype), alpha=group["lr"])

    def search(self, played: Played, clock: Clock) -> tuple[float, float]:
        """(α₁, α₂) from the model, after the damping has learned from the slope along the last step."""
        boundary = played.boundary
        b, R, overlap = directions(played)
        trust = Trust(clock["damping"], clock.get("overshoot", 0.0), clock.get("slope", 0.0))
        trust.observe(float(b[1]), self.model, boundary.batch)
        quadratic = bellman_quadratic(b, R, weighted_core(boundary), overlap, trust.damping, boundary.ranks)
        if not quadratic.is_finite():
            played.tally["search not finite"] += 1
            clock.update(damping=trust.damping, overshoot=trust.overshoot, slope=0.0, predicted=0.0)
            return 0.0, 0.0
        alpha = self.model.believable(quadratic, boundary.loss)
        record(clock, trust, quadratic, alpha)
        return float(alpha[0]), float(alpha[1])


def record(clock: Clock, trust: Trust, quadratic: Quadratic, alpha: Tensor) -> None:
    """Keep what the next step and ``diagnostics()`` want to know."""
    slope = float(quadratic.b @ alpha)
    clock.update(damping=trust.damping, overshoot=trust.overshoot, slope=slope)
    clock.update(length=float(alpha[0]), momentum=float(alpha[1]), predicted=float(quadratic.value(alpha)))
