"""λ for steps on batches: each is judged by the next batch, which it has not seen.

A step u was made from one batch, on which it looks better than it is. The next batch, before it makes a step of its
own, says without bias what has become of it: by how much its loss fell from the parameters before u to those of now.
With the slope g·u of now, which its gradient shows, this tells along a parabola what u was to bring to first order, and
how much of that the bend of the loss has taken away:

    linear = 2 fell + g·u        bend = fell + g·u        fell = linear − bend

The share that has come true, ρ = 1 − bend/linear, is 1 for tiny steps, ½ for one to the minimum along u, and less for
one beyond. With running averages over steps,

    ρ = 1 − Σ bend / Σ linear        λ ← λ grow where ρ < low,   λ shrink where ρ > high

Where gradients are mostly noise, Σ linear may be next to nothing, or below; it counts as no less than the share
``TRUE`` of what the steps were to bring on their own batches. The heavy ball is on the steps that the policy has made,
u ← (1 − momentum)·δθ + momentum·u (DESIGN, fact 6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from .acceptance import Damping, require_positive

TRUE = 0.1
"""Share of a batch's own first-order decrease that is taken for granted on others."""


class Record(NamedTuple):
    """Running averages over steps: linear and bend on batches that they had not seen, linear on their own."""

    linear: float = 0.0
    bend: float = 0.0
    own: float = 0.0

    @property
    def ratio(self) -> float:
        """ρ."""
        linear = max(self.linear, TRUE * self.own)
        return 1 - self.bend / linear if linear > 0 else math.nan


@dataclass(frozen=True)
class StochasticLevenbergMarquardt:
    """Options of search="stochastic-levenberg-marquardt", for value="coupled" on batches.

    start: λ of the first step.  smallest, largest: its limits.
    low, high: ρ below and above which λ grows and shrinks, by the factors ``grow`` and ``shrink``.
    memory: averaging coefficient of the sums of ρ.
    momentum: of the heavy ball, an average of steps: with it a step is no longer, only less noisy.
    worst: by which factor the loss of a batch may have grown over the step before; one that did worse is undone.
    """

    start: float = 1.0
    shrink: float = 0.9
    grow: float = 1.2
    low: float = 0.0
    high: float = 0.3
    smallest: float = 1e-10
    largest: float = 1e10
    memory: float = 0.9
    momentum: float = 0.8
    worst: float = 2.0
    needs_closure = True
    keeps_batch = False
    default_lr = 1.0

    def __post_init__(self) -> None:
        require_positive(self, ("start", "smallest", "largest"))
        if not self.smallest <= self.start <= self.largest:
            raise ValueError(
                f"StochasticLevenbergMarquardt needs smallest ≤ start ≤ largest, not smallest={self.smallest}, "
                f"start={self.start}, largest={self.largest}."
            )
        if not (0 < self.shrink <= 1 <= self.grow and self.low <= self.high and self.worst > 1):
            raise ValueError(
                "StochasticLevenbergMarquardt needs 0 < shrink ≤ 1 ≤ grow, low ≤ high and worst > 1, not "
                f"shrink={self.shrink}, grow={self.grow}, low={self.low}, high={self.high}, worst={self.worst}."
            )
        for name in ("memory", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"StochasticLevenbergMarquardt({name}={getattr(self, name)}) must lie in [0, 1).")

    def first(self) -> Damping:
        return Damping(self.start, self.grow)

    def observe(self, record: Record, fell: float, slope: float, own: float) -> Record:
        """The averages with one step more, by its decrease, the slope behind it, and the one on its own batch."""
        keep, seen = self.memory if record.own else 0.0, (2 * fell + slope, fell + slope, own)
        return Record(*(keep * old + (1 - keep) * new for old, new in zip(record, seen, strict=True)))

    def adapted(self, damping: float, record: Record) -> float:
        """λ by ρ."""
        factor = self.grow if record.ratio < self.low else self.shrink if record.ratio > self.high else 1.0
        return self.held(damping * factor)

    def held(self, damping: float) -> float:
        return min(max(damping, self.smallest), self.largest)

    def undoes(self, before: float, after: float) -> bool:
        """Whether a loss that was ``before`` and is ``after`` the step has grown by too much."""
        return after - before > (self.worst - 1) * abs(before)
