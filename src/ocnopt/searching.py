"""search="model" and "bounded": step length and heavy ball from the Bellman quadratic, and the move that follows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from .core.bellman import Pace
from .core.coasting import Coasting
from .core.compiling import compilable
from .core.search import Calibration, Model, Quadratic, Trust, output_curvature
from .curvature import Curvature, Kronecker, elementwise
from .curvature.diagonal import buffers
from .gathering import Turn
from .played import Played, curvatures, directions, on_host, summed, weighted_core
from .updates import Clock, apply_diagonal, by_group, diagonal_of


@dataclass(frozen=True)
class Searched:
    """The Bellman quadratic gives step length and heavy ball together; lr multiplies the outcome, or bounds it.

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
        return clock.setdefault("damping", self.model.start) * self.model.unit(clock.get("loss", 0.0))

    def previous(self, turn: Turn) -> tuple[Tensor, ...] | None:
        if any("direction" not in state for state in turn.states):
            return None
        return tuple(state["direction"] for state in turn.states)

    def pace(self, clock: Clock, lr: float) -> Pace:
        length = clock["length"] if clock.get("labels") else self.model.first(lr)
        return Pace(lr * length, lr * clock.get("momentum", 0.0))

    def steers(self, turn: Turn) -> bool:
        return turn.player is not None

    def beginning(self) -> Clock:
        zeros = "overshoot", "slope", "predicted", "loss", "drawn", "modelled", "shrinkage"
        first = {
            "step": 0,
            "labels": 0,
            "damping": self.model.start,
            "calibration": 1.0,
            **asdict(Coasting(length=1.0)),
        }
        return first | dict.fromkeys(zeros, 0.0)

    def apply(self, turns: Sequence[Turn], played: Played | None, clock: Clock) -> None:
        moving = [turn for turn in turns if turn.step]
        alpha = self.onward(moving, clock) if played is None else self.asked(played, clock, rate_of(moving))
        self.move([turn for turn in moving if shrinks(turn)], *alpha, clock.get("shrinkage", 0.0))
        self.move([turn for turn in moving if not shrinks(turn)], *alpha, 0.0)
        still = [turn for turn in turns if not turn.step]
        rule, _ = diagonal_of(self.curvature)
        apply_diagonal(still, self.curvature, 1.0 if isinstance(self.curvature, Kronecker) else rule.default_lr)

    def move(self, turns: Sequence[Turn], length: float, momentum: float, shrinkage: float) -> None:
        """By u ← α₁ δθ + α₂ u, one foreach call for all parameters of a group."""
        for turn in turns:
            if self.previous(turn) is None:  # momentum is of a whole turn
                forget(turn)
        for entries in by_group((turn, turn.step) for turn in turns):
            u, params, lr = buffers(entries.states, "direction", entries.values), entries.params, entries.group["lr"]
            decay = shrinkage + (entries.group["weight_decay"] if self.decoupled_decay else 0.0)
            roll(u, entries.values, momentum, length)
            follow(params, u, 1 - lr * length * decay, lr)

    def asked(self, played: Played, clock: Clock, lr: float) -> tuple[float, float]:
        with played.watch.phase("search"):
            return self.search(played, clock, lr)

    def search(self, played: Played, clock: Clock, lr: float) -> tuple[float, float]:
        """(α₁, α₂) from the model, after the damping has learned from the slope along the last step."""
        boundary = played.boundary
        clock.update(self.beginning() | clock)
        clock.update(labels=boundary.labels, shrinkage=self.model.shrinkage_of(boundary.loss))
        b, R, overlap = directions(played)
        self.calibrate(played, R[0], clock)
        b, H, overlap = on_host(b, output_curvature(R, weighted_core(boundary), boundary.ranks), overlap)
        trust = self.trust(float(b[1]), clock)
        own = Quadratic(b, H + trust.damping * self.model.unit(clock["loss"]) * overlap)
        quadratic = self.model.along(own, lr)
        alpha = self.model.believable(quadratic, boundary.loss) if quadratic.is_finite() else None
        if alpha is None or not (predicted := quadratic.value(alpha)).isfinite():  # the sum of finite parts may not be
            played.tally["search not finite"] += 1
            clock.update(damping=trust.damping, overshoot=trust.overshoot, slope=0.0, predicted=0.0)
            return 0.0, 0.0
        slope, shown, length, momentum = torch.stack([own.b @ alpha, predicted, *alpha]).tolist()
        clock.update(damping=trust.damping, overshoot=trust.overshoot, slope=slope)
        clock.update(asdict(Coasting.of(clock).after(length, momentum, -float(b[0]))), predicted=shown)
        return length, momentum

    def onward(self, turns: Sequence[Turn], clock: Clock) -> tuple[float, float]:
        """(α₁, α₂) where the feedback rests; the damping learns from the slope all the same."""
        if not clock.get("labels") or not any(turn.feedback for turn in turns):
            clock["shrinkage"] = 0.0
            return 1.0, 0.0
        b = self.slopes(turns)
        trust = self.trust(b[1], clock)
        alpha = Coasting.of(clock).coefficients(*b, self.model.longest[0])
        slope = b[0] * alpha[0] + b[1] * alpha[1]
        clock.update(damping=trust.damping, overshoot=trust.overshoot, slope=slope if math.isfinite(slope) else 0.0)
        return alpha

    def trust(self, slope_after: float, clock: Clock) -> Trust:
        """What the damping has learned from the slope along the last step."""
        trust = Trust(clock["damping"], clock["overshoot"], clock["slope"])
        trust.observe(slope_after, self.model, clock["labels"])
        return trust

    def slopes(self, turns: Sequence[Turn]) -> tuple[float, float]:
        """b: of the objective along the steps of the turns that play, and along their previous directions."""
        pairs = [(turn, tuple(turn.gradients)) for turn in turns if turn.feedback]
        again = [(u, g) for turn, g in pairs if (u := self.previous(turn)) is not None]
        first = pairs[0][1][0]
        like = first.new_empty(0, dtype=torch.promote_types(first.dtype, torch.float32))
        sums = summed(like, [(turn.step, g) for turn, g in pairs]), summed(like, again)
        return tuple(torch.stack(sums).tolist())

    def calibrate(self, played: Played, R: Tensor, clock: Clock) -> None:
        """Learn from the draws of a step that gathers statistics how much curvature C leaves out."""
        boundary = played.boundary
        if boundary.name != "true-vs-rest" or not self.measures(clock):
            return
        found = curvatures(played, R)
        drawn, modelled, missing = boundary.ranks.numbers(*(found or (0.0, 0.0)), found is None)
        if missing:
            return
        scale = Calibration(clock["drawn"], clock["modelled"])
        if not scale.modelled:
            clock["damping"] = min(clock["damping"], self.model.measured)
        scale.observe(drawn, modelled / clock["calibration"], self.model.calibration)
        clock.update(drawn=scale.drawn, modelled=scale.modelled, calibration=scale.factor)

    def measures(self, clock: Clock) -> bool:
        """Whether there are draws in this step, and what they show is wanted."""
        due = isinstance(self.curvature, Kronecker) and self.curvature.statistics_due(clock["step"])
        return due and self.model.calibration < 1


@compilable(elementwise.roll)
def roll(u: list[Tensor], steps: list[Tensor], momentum: float, length: float) -> None:
    """u ← α₂ u + α₁ δθ."""
    torch._foreach_mul_(u, momentum)
    torch._foreach_add_(u, steps, alpha=length)


@compilable(elementwise.follow)
def follow(params: list[Tensor], u: list[Tensor], decay: float, lr: float) -> None:
    """p ← decay·p + lr·u."""
    if decay != 1:
        torch._foreach_mul_(params, decay)
    torch._foreach_add_(params, [x.to(p.dtype) for x, p in zip(u, params, strict=True)], alpha=lr)


def shrinks(turn: Turn) -> bool:
    """Whether its parameters are among those whose size the shrinkage holds down."""
    return turn.kronecker and turn.player is not None and turn.player.shrinks


def forget(turn: Turn) -> None:
    """The direction of what has not moved as a whole."""
    for state in turn.states:
        state.pop("direction", None)


def rate_of(turns: Sequence[Turn]) -> float:
    """The largest rate of those that move; the steps of groups with a smaller one are shorter in proportion.

    Where a scheduler drives it, the rate that it began with: what the scheduler makes of that multiplies every step.
    """
    groups = [group for turn in turns for group in turn.groups]
    return max((float(group["initial_lr" if "initial_lr" in group else "lr"]) for group in groups), default=0.0)
