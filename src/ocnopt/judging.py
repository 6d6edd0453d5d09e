"""search="stochastic-levenberg-marquardt": a step on every batch, judged by the next one (``core.unseen``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from .core.acceptance import Damping, Line, Outcome
from .core.stage import dot
from .core.unseen import Record, StochasticLevenbergMarquardt
from .evaluating import Again, tensors_kept_unless
from .gathering import Turn
from .predicting import line_along, objective, step_of
from .solving import Solver, plainly

if TYPE_CHECKING:
    from .trials import Tried


@dataclass
class Judging:
    """One step. turns: as gathered from the first evaluation, at which the closure found ``loss``."""

    solver: Solver
    method: Tried
    rule: StochasticLevenbergMarquardt
    turns: Sequence[Turn]
    again: Again
    loss: float

    def run(self) -> Outcome:
        """Judge the step before by this batch, then take one from it."""
        if not any(float(group["lr"]) for turn in self.turns for group in turn.groups):
            return Outcome(False, "the learning rate is zero", self.loss, self.method.trust.value)
        self.solver.decay(self.turns)
        clock, promised = self.method.clock, self.method.clock.get("promised", 0.0)
        fell = self.fell() if promised > 0 else math.nan
        if math.isfinite(fell):
            if self.rule.undoes(self.loss + fell, self.loss):
                return self.undo(fell, promised)
            self.learn(fell)
        line = self.step()
        clock.update(
            promised=line.decrease(1.0),
            predicted=-line.decrease(1.0),
            slope=line.slope,
            tries=clock.get("tries", 0) + 1,
        )
        return Outcome(True, "", self.loss, self.method.trust.value, promised or math.nan, fell, tries=1)

    def learn(self, fell: float) -> None:
        """λ from what the step before has brought."""
        clock = self.method.clock
        record = Record(*(clock.get(name, 0.0) for name in Record._fields))
        record = self.rule.observe(record, fell, self.slope(), -clock["slope"])
        clock.update(record._asdict(), share=record.ratio)
        self.method.learn(Damping(self.rule.adapted(self.method.trust.value, record), self.rule.grow))

    def fell(self) -> float:
        """By how much the step before has lowered the objective on this batch."""
        after = objective(self.loss, self.turns)
        with tensors_kept_unless(p for turn in self.turns for p in turn.params):
            back(self.turns)
            with self.solver.watch.phase("closure"):
                return objective(self.again(), self.turns) - after

    def slope(self) -> float:
        """Of the objective on this batch along the step before, where that has led."""
        pairs = [pair for turn in self.turns for pair in zip(turn.gradients, turn.states, strict=True)]
        return sum(float(dot(g, state["moved"])) for g, state in pairs if "moved" in state)

    def undo(self, fell: float, promised: float) -> Outcome:
        """Back to the parameters before the last step, without its momentum."""
        back(self.turns)
        for turn in self.turns:
            for state in turn.states:
                state.pop("moved", None)
        damping = self.rule.held(self.method.trust.value * self.rule.grow**2)
        self.method.learn(Damping(damping, self.rule.grow))
        self.method.clock.update(promised=0.0)
        self.solver.tally["steps rejected"] += 1
        told = f"the step before has raised the loss of this batch from {self.loss + fell:.6g} to {self.loss:.6g}"
        reason = f"{told}: it is undone; the next step starts from damping {damping:.3g}"
        return Outcome(False, reason, self.loss + fell, damping, promised, fell)

    def step(self) -> Line:
        """Propose, let the ball roll on where that is downhill, and move. The quadratic along the move."""
        with plainly(self.turns):
            self.solver.measure(self.turns, self.method.clock)
            boundary = self.solver.boundary(self.turns, self.again.capture)
            played = self.solver.propose(self.turns, boundary, self.method.clock)
            moves = [self.moves(turn, self.rule.momentum) for turn in self.turns]
            line = line_along(self.turns, played, moves)
            if not line.decrease(1.0) > 0:
                moves = [self.moves(turn, 0.0) for turn in self.turns]
                line = line_along(self.turns, played, moves)
            with self.solver.watch.phase("move"):
                move(self.turns, moves)
        return line

    def moves(self, turn: Turn, momentum: float) -> list[Tensor]:
        """(1 − momentum)·lr·δθ + momentum·(the move before), for every parameter."""
        entries = zip(step_of(turn), turn.params, turn.groups, turn.states, strict=True)
        return [
            (1 - momentum) * float(group["lr"]) * d.to(p) + momentum * state.get("moved", 0.0)
            for d, p, group, state in entries
        ]


def move(turns: Sequence[Turn], moves: Sequence[Sequence[Tensor]]) -> None:
    """Take the moves, and remember them."""
    for turn, own in zip(turns, moves, strict=True):
        for p, m, state in zip(turn.params, own, turn.states, strict=True):
            state["moved"] = m
            p.add_(m)


def back(turns: Sequence[Turn]) -> None:
    """The parameters as they were before the last move."""
    for turn in turns:
        for p, state in zip(turn.params, turn.states, strict=True):
            if "moved" in state:
                p.sub_(state["moved"])
