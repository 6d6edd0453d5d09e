"""Quadrature over the steps of somebody else's solver: which of its evaluations count, and by which weight.

A solver evaluates a vector field at stages of steps that it may reject. Integrals over time, like ∫ f_θᵀ q dt, are
approximated from those evaluations that lie on the solution: with weights of the Runge-Kutta method itself where they
are positive, else by the trapezoidal rule over the ends of the accepted steps, whose weights always are. Positive
weights keep ∫ g gᵀ dt positive semi-definite, which the fifth-order weights of Dormand and Prince would not.

Both rules run backwards in time, from the last output time to the first, as the adjoint does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ocnopt.core.backward import Evaluation

from .solver import ADAPTIVE

STAGES: dict[str, tuple[tuple[float, float], ...]] = {
    "euler": ((0, 1),),
    "midpoint": ((0, 0), (1 / 2, 1)),
    "heun2": ((0, 1 / 2), (1, 1 / 2)),
    "heun3": ((0, 1 / 4), (1 / 3, 0), (2 / 3, 3 / 4)),
    "rk4": ((0, 1 / 8), (1 / 3, 3 / 8), (2 / 3, 3 / 8), (1, 1 / 8)),
}
"""(c, b) of every stage of the fixed-grid methods of torchdiffeq, whose b are not negative."""


@dataclass(eq=False)
class Knot:
    """An evaluation that counts ``weight`` times, at time t."""

    t: float
    weight: float
    evaluation: Evaluation


@dataclass(eq=False)
class Knots:
    """The knots of one solve in the order of the solve, at most ``limit`` of them: memory does not grow with the steps.

    Beyond that the one goes whose neighbours are nearest to each other, and leaves them its weight as linear
    interpolation would: the trapezoidal rule on the coarser grid. At the output ``times`` q jumps, so those stay.
    """

    times: Sequence[float] = ()
    limit: int = 32
    kept: list[Knot] = field(default_factory=list)

    def add(self, knot: Knot) -> None:
        if knot.weight == 0:
            return
        self.kept.append(knot)
        if len(self.kept) > self.limit:
            self.thin()

    def thin(self) -> None:
        inner = range(1, len(self.kept) - 1)
        free = [j for j in inner if not self.at_output(self.kept[j].t)]
        j = min(free or inner, key=lambda j: abs(self.kept[j + 1].t - self.kept[j - 1].t))
        before, gone, after = self.kept[j - 1 : j + 2]
        span = after.t - before.t
        near = (after.t - gone.t) / span if span else 0.5
        before.weight += near * gone.weight
        after.weight += (1 - near) * gone.weight
        del self.kept[j]

    def at_output(self, t: float) -> bool:
        return any(math.isclose(t, time, abs_tol=1e-9) for time in self.times)

    def deposit(self, sign: float) -> None:
        """Hand the evaluations over, each with its weight and its share of the whole time."""
        T = sum(knot.weight for knot in self.kept)
        for knot in self.kept:
            knot.evaluation.deposit(sign * knot.weight, knot.weight / T)
        self.kept = []


class Rule(Protocol):
    """Told what the solver does, it hands knots over."""

    def hears(self) -> bool:
        """Whether the evaluation that begins may count."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """A cotangent has been pulled through an evaluation."""

    def begun(self, t: float, dt: float) -> None:
        """A step from t to t − dt is tried."""

    def accepted(self, t: float, dt: float) -> None:
        """That step has been accepted."""

    def ended(self) -> None:
        """The solve is over."""


class Stages:
    """∫ y dt ≈ Σ over steps of dt Σ_i b_i y_i, the fixed-grid method's own rule: of the order of the method."""

    def __init__(self, knots: Knots, stages: Sequence[tuple[float, float]]) -> None:
        self.knots, self.stages = knots, stages
        self.step: tuple[float, float] | None = None
        self.seen: list[Evaluation] = []

    def hears(self) -> bool:
        return True

    def evaluated(self, evaluation: Evaluation) -> None:
        self.seen.append(evaluation)

    def begun(self, t: float, dt: float) -> None:
        self.ended()
        self.step = t, dt

    def accepted(self, t: float, dt: float) -> None:
        """Fixed grids accept without a word."""

    def ended(self) -> None:
        if self.step is not None:
            t, dt = self.step
            # Beyond the stages lies at most one evaluation for an interpolation of outputs.
            for evaluation, (c, b) in zip(self.seen, self.stages, strict=False):
                self.knots.add(Knot(t - c * dt, b * dt, evaluation))
        self.step, self.seen = None, []


class Ends:
    """∫ y dt by the trapezoidal rule over the ends of the accepted steps, interval by interval of the output times.

    The last step of an interval reaches beyond it, by the fraction 1 − s; of y interpolated between its ends

        ∫ = dt [s(1 − s/2) y_start + s²/2 y_end].
    """

    def __init__(self, knots: Knots, times: Sequence[float], stages: int) -> None:
        self.knots, self.stages = knots, stages
        self.goals = list(times[-2::-1])
        self.restart()

    def restart(self) -> None:
        """At an output time the solver begins anew, and with it q."""
        self.first: Evaluation | None = None
        self.last: Evaluation | None = None
        self.knot: Knot | None = None
        self.evaluations = 0

    def hears(self) -> bool:
        """The first of an interval, and of every step the one at its end."""
        self.evaluations += 1
        return self.evaluations == (1 if self.knot is None else self.stages)

    def evaluated(self, evaluation: Evaluation) -> None:
        self.first = self.first or evaluation
        self.last = evaluation

    def begun(self, t: float, dt: float) -> None:
        self.evaluations = 0
        if self.knot is None and self.first is not None:
            self.knot = Knot(t, 0.0, self.first)

    def accepted(self, t: float, dt: float) -> None:
        if self.knot is None or self.last is None or not self.goals:
            return
        s = min(1.0, (t - self.goals[0]) / dt)
        self.knot.weight += dt * s * (1 - s / 2)
        self.knots.add(self.knot)
        self.knot = Knot(max(t - dt, self.goals[0]), dt * s**2 / 2, self.last)
        if t - dt <= self.goals[0]:
            self.knots.add(self.knot)
            self.goals.pop(0)
            self.restart()

    def ended(self) -> None:
        """All has been handed over at the last output time."""


def rule_of(method: str, knots: Knots, times: Sequence[float]) -> Rule | None:
    """The rule for a method of torchdiffeq over ascending output times; None where its stages cannot be weighed."""
    if method in STAGES:
        return Stages(knots, STAGES[method])
    return Ends(knots, times, ADAPTIVE[method]) if method in ADAPTIVE else None
