"""Steps that are measured before they stand: search="levenberg-marquardt" and search="backtracking".

Propose, predict, move, measure; keep it, or put everything back and try again (``core.acceptance``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .accelerating import STRAIGHT, Bend, accelerated
from .core.acceptance import Damping, Line, Outcome, Rule
from .core.bellman import Pace
from .core.capture import Capture
from .core.unseen import StochasticLevenbergMarquardt
from .core.value import Coupled, Value
from .curvature import SGD, Curvature, Kronecker
from .evaluating import Again, differ, number, precision, tensors_kept_unless
from .gathering import Boundary, Turn
from .judging import Judging
from .options import Search
from .played import Played
from .predicting import line_of, objective, step_of
from .searching import Searched
from .solving import Solver, plainly
from .updates import Clock, Fixed, Method, diagonal_of


@dataclass(frozen=True)
class Tried:
    """The metric is λ times the curvature's, and a step is measured before it is kept; lr multiplies it.

    proximal: the value holds the Gauss-Newton curvature of all layers (coupled), so that M must vanish with λ. Where
    it does not, a Kronecker metric stands for it and is damped by λ. Turns without feedback go no further than the
    ``unit`` of their metric, however small λ becomes. Weight decay is L2, a part of the objective; the
    identity metric holds its curvature.
    """

    curvature: Curvature
    rule: Rule
    clock: Clock
    proximal: bool
    needs_responses = True
    decoupled_decay = False

    @property
    def trust(self) -> Damping:
        """λ as the last try left it."""
        first = self.rule.first()
        return Damping(self.clock.setdefault("damping", first.value), self.clock.setdefault("growth", first.growth))

    def learn(self, damping: Damping) -> None:
        self.clock.update(damping=damping.value, growth=damping.growth)

    def scale(self, turn: Turn) -> list[float]:
        if turn.kronecker and not self.proximal:
            return [1.0] * len(turn.params)
        own = isinstance(self.curvature, SGD)
        scales = [1 / (self.trust.value + (group["weight_decay"] if own else 0.0)) for group in turn.groups]
        return scales if turn.feedback else [min(scale, self.unit(turn)) for scale in scales]

    def unit(self, turn: Turn) -> float:
        rule, rate = diagonal_of(self.curvature)
        return 1.0 if turn.kronecker else rate if isinstance(self.curvature, Kronecker) else rule.unit

    def damping(self, clock: Clock) -> float:
        return self.curvature.damping if self.proximal and isinstance(self.curvature, Kronecker) else self.trust.value

    def previous(self, turn: Turn) -> tuple[Tensor, ...] | None:
        """There is no momentum: it would not be the step that was predicted."""
        return None

    def pace(self, clock: Clock, lr: float) -> Pace:
        return Pace()

    def steers(self, turn: Turn) -> bool:
        return True

    def beginning(self) -> Clock:
        first = self.rule.first()
        return {"step": 0, "damping": first.value, "growth": first.growth, "length": 1.0, "predicted": 0.0, "tries": 0}

    def apply(self, turns: Sequence[Turn], played: Played | None, clock: Clock) -> None:
        for turn in turns:
            for p, d, group in zip(turn.params, step_of(turn), turn.groups, strict=True):
                p.add_(d.to(p.dtype), alpha=float(group["lr"]) * clock.get("length", 1.0))


def method_of(curvature: Curvature, search: Search | None, value: Value, clock: Clock) -> Method:
    """The search with its curvature."""
    if search is None:
        return Fixed(curvature)
    if getattr(search, "needs_closure", False):
        return Tried(curvature, search, clock, isinstance(value, Coupled))  # type: ignore[arg-type]
    return Searched(curvature, search)  # type: ignore[arg-type]


def limit_of(method: Method, saturation: float | None) -> float | None:
    """Where the coupled step is exact and measured, λ and the measurement are the guard, and a limit would spoil it."""
    return None if isinstance(method, Tried) and method.proximal else saturation


def idle(again: Again | None, loss: Any, reason: str) -> Outcome | None:
    """A step that has tried nothing; None where steps are not measured."""
    return None if again is None else Outcome(False, reason, number(loss), math.nan)


def taken(
    solver: Solver, turns: Sequence[Turn], capture: Capture, clock: Clock, again: Again | None, loss: Any
) -> tuple[float | None, Outcome | None]:
    """One step from the gradients and the trajectory at hand: the loss that this shows, or what was measured."""
    if not turns:
        with plainly(solver.resting):
            solver.measure(turns, clock)
        return None, idle(again, loss, "every parameter rests in this step")
    with solver.watch.moving(turns):
        if again is None:
            return solver.step(turns, capture, clock), None
        assert isinstance(solver.method, Tried)
        if isinstance(rule := solver.method.rule, StochasticLevenbergMarquardt):
            return None, Judging(solver, solver.method, rule, turns, again, number(loss)).run()
        return None, Trials(solver, solver.method, turns, again, number(loss), precision(loss)).run()


@dataclass
class Trials:
    """One step. turns: as gathered from the first evaluation, at which the closure found ``loss``."""

    solver: Solver
    method: Tried
    turns: Sequence[Turn]
    again: Again
    loss: float
    eps: float
    boundary: Boundary | None = None
    bend: Bend = STRAIGHT

    def run(self) -> Outcome:
        """Move the parameters, or leave them and everything else bit for bit as they were."""
        self.solver.decay(self.turns)
        norm = float(torch.nn.utils.get_total_norm([g for turn in self.turns for g in turn.gradients]))
        if norm <= self.method.rule.gradient:
            return self.still(
                f"converged: the norm of the gradient, {norm:.3g}, is at most {self.method.rule.gradient:.3g}"
            )
        if not any(float(group["lr"]) for turn in self.turns for group in turn.groups):
            return self.still("the learning rate is zero")
        with plainly(self.turns):
            self.solver.measure(self.turns, self.method.clock)
            self.boundary = self.solver.boundary(self.turns, self.again.capture)
        return self.search()

    def search(self) -> Outcome:
        """Tries until one is kept, or there is nothing left to try."""
        rule = self.method.rule
        for tried in range(rule.tries):
            damping = self.method.trust
            if tried == 0 or rule.renews:
                line = self.propose(fresh=tried == 0)
            alpha = rule.length(tried)
            if 0 <= line.decrease(alpha) <= max(rule.decrease, self.eps) * abs(self.loss):
                return self.unseen(damping, line.decrease(alpha), tried)
            outcome = self.attempt(line, alpha, tried + 1)
            if outcome.accepted:
                self.method.learn(rule.kept(damping, outcome.ratio))
                return outcome
            self.solver.tally["tries refused"] += 1
            self.method.learn(rule.refused(damping))
            if rule.exhausted(damping):
                break
        return self.gave_up(outcome, rule.exhausted(damping))

    def propose(self, fresh: bool) -> Line:
        """Steps of all turns at the present λ, and the quadratic along them, straight as it is."""
        clock = self.method.clock
        with plainly(self.turns):
            if not fresh:
                self.solver.redamp(self.turns, clock)
            played = self.solver.propose(self.turns, self.boundary, clock)
            line = line_of(self.turns, played)
        if limit := self.method.rule.acceleration:
            self.bend = accelerated(self.solver, self.turns, played, self.again, limit)
        return line

    def attempt(self, line: Line, alpha: float, count: int) -> Outcome:
        """Move by α, measure, and move back unless the objective has fallen by enough."""
        clock, predicted = self.method.clock, line.decrease(alpha)
        shown = -predicted if math.isfinite(predicted) else 0.0
        clock.update(length=alpha, predicted=shown, tries=clock.get("tries", 0) + 1)
        outcome = Outcome(False, "", self.loss, self.method.trust.value, predicted, math.nan, alpha, count, *self.bend)
        if not predicted > 0:
            return outcome
        before = objective(self.loss, self.turns)
        with tensors_kept_unless(p for turn in self.turns for p in turn.params) as keep:
            with self.solver.watch.phase("move"):
                self.method.apply(self.turns, None, clock)
            with self.solver.watch.phase("closure"):
                loss = self.again()
            actual = before - objective(loss, self.turns)
            if math.isfinite(actual) and self.method.rule.enough(line, alpha, actual):
                keep.append(True)
                return replace(outcome, accepted=True, loss=loss, actual=actual)
        return replace(outcome, actual=actual if math.isfinite(actual) else -math.inf)

    # how a step ends that has moved nothing

    def still(self, reason: str) -> Outcome:
        return Outcome(False, reason, self.loss, self.method.trust.value)

    def unseen(self, damping: Damping, predicted: float, tried: int) -> Outcome:
        """The predicted decrease is too small to be seen: the end of the way, unless λ alone makes it so."""
        first = self.method.rule.first()
        told = f"the predicted decrease, {predicted:.3g}, is nothing to a loss of {self.loss:.3g}"
        outcome = Outcome(False, f"converged: {told}", self.loss, damping.value, predicted, tries=tried)
        if tried == 0 and damping.value <= first.value:
            return outcome
        self.method.learn(first)
        return replace(outcome, reason=f"no decrease: at damping {damping.value:.3g} {told}{self.onward()}")

    def gave_up(self, outcome: Outcome, exhausted: bool) -> Outcome:
        self.solver.tally["steps rejected"] += 1
        again = self.again()
        if differ(self.loss, again, self.eps):
            told = f"the closure finds the losses {self.loss:.9g} and {again:.9g} at the same parameters"
            return replace(outcome, reason=f"no decrease, but {told}: keep its batch for the whole step")
        last = ", and the last loss is not finite" if math.isinf(outcome.actual) else ""
        if exhausted:
            self.method.learn(self.method.rule.first())
            return replace(outcome, reason=f"no decrease at the largest damping{last}{self.onward()}")
        return replace(outcome, reason=f"no decrease in {outcome.tries} tries{last}{self.onward()}")

    def onward(self) -> str:
        return f"; the next step starts from damping {self.method.trust.value:.3g}"
