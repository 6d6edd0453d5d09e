"""Whether a step stands: proposals that are measured before they are kept.

Along a step d the Bellman quadratic, without the term of λ, predicts by how much the objective falls,

    L(θ) − L(θ + α d) ≈ −(b α + ½ H α²)        b = ⟨Q_θ, d⟩,  H = Rᵀ C R,  R_i = Σ_t resp(Y, d_t)_i

and a second evaluation says by how much it did: ρ = actual/predicted. Levenberg-Marquardt answers with λ
(H. B. Nielsen, Damping parameter in Marquardt's method, IMM-REP-1999-05; Madsen, Nielsen and Tingleff,
Methods for non-linear least squares problems, 2004, section 2.4 and algorithm 3.16),

    kept      λ ← λ max(shrink, 1 − (grow − 1)(2ρ − 1)³)      ν ← grow
    refused   λ ← λ ν                                         ν ← 2 ν

backtracking with the length of the step, α = 1, ½, ¼, …, as in differential dynamic programming (Tassa,
Erez and Todorov, Synthesis and stabilization of complex behaviors through online trajectory optimization, 2012).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol


class Line(NamedTuple):
    """The quadratic b α + ½ H α² along one step."""

    slope: float
    curvature: float

    def decrease(self, alpha: float) -> float:
        """By how much the objective falls at α, as predicted."""
        return -(self.slope * alpha + 0.5 * self.curvature * alpha**2)


class Damping(NamedTuple):
    """λ, and the factor ν that it grows by when the next step is refused."""

    value: float
    growth: float


class Rule(Protocol):
    """The places where searches that measure their steps differ.

    tries: the most in one step.  gradient, decrease: where a step has nothing left to do.
    acceleration: the largest 2‖δ₂‖/‖δ₁‖ at which a step is bent (``core.geodesic``); 0 for straight ones.
    """

    @property
    def renews(self) -> bool:
        """Whether every try is a new proposal, at a new λ."""
        ...

    @property
    def tries(self) -> int: ...

    @property
    def acceleration(self) -> float: ...

    @property
    def gradient(self) -> float: ...

    @property
    def decrease(self) -> float: ...

    def first(self) -> Damping:
        """λ of the first step, and of the one after a dead end."""
        ...

    def length(self, tried: int) -> float:
        """α after so many tries."""
        ...

    def enough(self, line: Line, alpha: float, actual: float) -> bool:
        """Whether the objective has fallen by enough for the step to be kept."""
        ...

    def kept(self, damping: Damping, ratio: float) -> Damping:
        """λ after a step that was kept, by its ρ."""
        ...

    def refused(self, damping: Damping) -> Damping:
        """λ after one that was not."""
        ...

    def exhausted(self, damping: Damping) -> bool:
        """Whether λ is as large as it may become."""
        ...


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Options of search="levenberg-marquardt".

    start: λ of the first step.  smallest, largest: its limits.
    shrink: the smallest factor on λ after a good step.  grow: the factor after the first refusal; it doubles with
        every further one in a row.
    accept: the share of the predicted decrease that a step must bring to be kept.
    tries: the most in one step.
    gradient: the norm of the gradient, and decrease: the predicted decrease relative to the loss, at or below
        which a step does nothing; no less than the loss's own precision.
    acceleration: add to a coupled step δ₁ the second order δ₂ of its path (``core.geodesic``), where 2‖δ₂‖/‖δ₁‖ is at
        most this. It takes one forward pass more in each try. 0: never.
    """

    start: float = 1.0
    shrink: float = 1 / 3
    grow: float = 2.0
    smallest: float = 1e-10
    largest: float = 1e10
    accept: float = 1e-3
    tries: int = 10
    gradient: float = 1e-12
    decrease: float = 1e-12
    acceleration: float = 0.75
    needs_closure = True
    default_lr = 1.0
    renews = True

    def __post_init__(self) -> None:
        require_positive(self, ("start", "smallest", "largest"))
        require_stops(self)
        if not self.smallest <= self.start <= self.largest:
            raise ValueError(
                f"LevenbergMarquardt needs smallest ≤ start ≤ largest, not smallest={self.smallest}, "
                f"start={self.start}, largest={self.largest}."
            )
        if not (0 < self.shrink <= 1 < self.grow and math.isfinite(self.grow)):
            raise ValueError(
                f"LevenbergMarquardt needs 0 < shrink ≤ 1 < grow, not shrink={self.shrink}, grow={self.grow}."
            )
        if not 0 <= self.accept < 1:
            raise ValueError(f"LevenbergMarquardt(accept={self.accept}) must lie in [0, 1).")
        if not 0 <= self.acceleration < math.inf:
            raise ValueError(f"LevenbergMarquardt(acceleration={self.acceleration}) must not be negative.")

    def first(self) -> Damping:
        return Damping(self.start, self.grow)

    def length(self, tried: int) -> float:
        return 1.0

    def enough(self, line: Line, alpha: float, actual: float) -> bool:
        return actual > 0 and actual >= self.accept * line.decrease(alpha)

    def kept(self, damping: Damping, ratio: float) -> Damping:
        factor = max(self.shrink, 1 - (self.grow - 1) * (2 * min(ratio, 1.0) - 1) ** 3)
        return Damping(self.held(damping.value * factor), self.grow)

    def refused(self, damping: Damping) -> Damping:
        return Damping(self.held(damping.value * damping.growth), 2 * damping.growth)

    def exhausted(self, damping: Damping) -> bool:
        return damping.value >= self.largest

    def held(self, value: float) -> float:
        return min(max(value, self.smallest), self.largest)


@dataclass(frozen=True)
class Backtracking:
    """Options of search="backtracking".

    damping: λ, the same in all steps.  shorten: the factor on the length α after a refusal.
    armijo: c of the condition L(θ + α d) ≤ L(θ) + c α b.
    tries, gradient, decrease: as in ``LevenbergMarquardt``.
    """

    damping: float = 1e-2
    shorten: float = 0.5
    armijo: float = 1e-4
    tries: int = 20
    gradient: float = 1e-12
    decrease: float = 1e-12
    needs_closure = True
    default_lr = 1.0
    renews = False
    acceleration = 0.0

    def __post_init__(self) -> None:
        require_positive(self, ("damping",))
        require_stops(self)
        for name in ("shorten", "armijo"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"Backtracking({name}={getattr(self, name)}) must lie between 0 and 1.")

    def first(self) -> Damping:
        return Damping(self.damping, 1.0)

    def length(self, tried: int) -> float:
        return self.shorten**tried

    def enough(self, line: Line, alpha: float, actual: float) -> bool:
        return actual > 0 and actual >= -self.armijo * alpha * line.slope

    def kept(self, damping: Damping, ratio: float) -> Damping:
        return self.first()

    def refused(self, damping: Damping) -> Damping:
        return self.first()

    def exhausted(self, damping: Damping) -> bool:
        return False


@dataclass(frozen=True)
class Outcome:
    """What became of a step.

    accepted: whether the parameters have moved.  reason: why not, and what the next step will do.
    predicted, actual: by how much the objective was to fall and did, at the last try; ratio: ρ, one over the other.
    damping: λ of that try.  length: its α.  tries: how many there were.
    bend: its 2‖δ₂‖/‖δ₁‖, where a search with acceleration has found it; accelerated: whether δ₂ was a part of it.
    loss: at the parameters as the step leaves them; ``step(closure)`` returns the one before.

    Of a step on a batch (``core.unseen``) these are not known before the next batch: predicted, actual and ratio are
    those of the step before, on the batch at hand, and loss is that batch's, before its own step.
    """

    accepted: bool
    reason: str
    loss: float
    damping: float
    predicted: float = math.nan
    actual: float = math.nan
    length: float = 1.0
    tries: int = 0
    bend: float = math.nan
    accelerated: bool = False

    @property
    def ratio(self) -> float:
        return self.actual / self.predicted if self.predicted else math.nan

    def __str__(self) -> str:
        told = f"loss {self.loss:.6g}, damping {self.damping:.3g}, tries {self.tries}"
        if not math.isnan(self.actual):
            told += f", fell by {self.actual:.3g} of {self.predicted:.3g} predicted (ratio {self.ratio:.3g})"
        told += f", accelerated (bend {self.bend:.3g})" if self.accelerated else ""
        told += f", length {self.length:.3g}" if self.length != 1 else ""
        return f"accepted: {told}" if self.accepted else f"not moved: {told}: {self.reason}"


def require_positive(rule: Any, names: Sequence[str]) -> None:
    for name in names:
        value = getattr(rule, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{type(rule).__name__}({name}={value}) must be a positive number.")


def require_stops(rule: Any) -> None:
    """Raise ValueError unless the rule tries at least once and its stopping values make sense."""
    if rule.tries < 1:
        raise ValueError(f"{type(rule).__name__}(tries={rule.tries}) must be at least 1.")
    for name in ("gradient", "decrease"):
        value = getattr(rule, name)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{type(rule).__name__}({name}={value}) must not be negative.")
