"""The backward Bellman pass: dynamic programming with the second order in Gauss-Newton, low-rank form.

Players in reverse order of their first call; V_x = v + Y a and V_xx = Y C Yᵀ are carried by the
(N, r) numbers a and the core C alone (Liu, Chen, Theodorou, arXiv 2510.14168; DESIGN, section 2):

    Q_θ = p.grad + ℓ_θ + pull(Y a)
    k   = −M⁻¹ Q_θ
    C   ← (C⁻¹ + G)⁻¹,  G = (f_θᵀY)ᵀ M⁻¹ (f_θᵀY)      V_xx = Q_xx − Q_xθ Q_θθ⁻¹ Q_θx
    a   ← a + C resp(Y, k)                             V_x  = Q_x + Q_xθ k
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from .protocols import Params
from .stage import Stage, minus, plus
from .value import Value


@dataclass(frozen=True)
class Pace:
    """How much of a proposed step will be taken: step = fresh·δθ + ball·previous.

    The feedback counts the whole step of the other layers, momentum included (DESIGN, fact 13).
    (1, 0) are the equations as they stand.
    """

    fresh: float = 1.0
    ball: float = 0.0

    def whole(self, response: Tensor, carried: Tensor | None) -> Tensor:
        """Response to the step that will be taken, from the responses to its two parts."""
        total = response if self.fresh == 1.0 else self.fresh * response
        return total if carried is None else torch.add(total, carried, alpha=self.ball)


@dataclass
class Saturation:
    """Control limits on the feedback: the weights that V_x puts on the columns of a sample stay within a bound.

    With Y = v the sample enters with weight 1 + c_i, and a bound of one holds it in [0, 2]. For
    more columns the length of c_i is held to ``bound`` times that of the coordinates of v_i in Y. A sample
    that stands for several of the batch counts as often, so its own weight is held as much tighter.
    weights: those of the layers, before they are held.
    """

    bound: float | None = 1.0
    coordinates: Tensor | None = None
    stands_for: Tensor | None = None
    weights: list[Tensor] = field(default_factory=list)

    def hold(self, c: Tensor) -> Tensor:
        """c (N, r) within the bound."""
        if self.bound is None:
            return c
        if c.shape[1] == 1:
            return c.clamp(*self.limits)
        length = lengths(c).clamp(min=torch.finfo(c.dtype).tiny)
        return c * (self.limits[1] / length).clamp(max=1.0)

    @cached_property
    def limits(self) -> tuple[Any, Any]:
        """The bound of every sample's length, (N, 1) or one number for all, and minus that before it."""
        assert self.bound is not None  # or nothing is held
        limit = self.bound * self.own
        return -limit, limit

    @cached_property
    def own(self) -> Tensor | float:
        """How much of the columns the sample's own gradient is, divided by what the sample stands for, (N, 1)."""
        own = 1.0 if self.coordinates is None else lengths(self.coordinates)
        return own if self.stands_for is None else own / self.stands_for[:, None]

    def count(self, c: Tensor) -> None:
        """Note the weights c of a layer, before they are held."""
        self.weights.append(c)

    def counts(self) -> tuple[int, int]:
        """How many weights, one for each sample and layer, were held, and how many would have turned their sample."""
        if not self.weights:
            return 0, 0
        c = torch.stack(self.weights)
        share = lengths(c) / self.own
        none = torch.zeros_like(share, dtype=torch.bool)
        held = none if self.bound is None else share > self.bound
        negative = none if self.coordinates is not None else (c < 0) & (share > 1)
        hits, turned = torch.stack([held.sum(), negative.sum()]).tolist()
        return hits, turned


def lengths(c: Tensor) -> Tensor:
    """‖c_i‖ of every sample, (..., N, 1)."""
    return c.abs() if c.shape[-1] == 1 else torch.linalg.vector_norm(c, dim=-1, keepdim=True)


@dataclass(eq=False)
class Gain:
    """What the backward pass leaves at a stage for the forward pass.

    Q: Q_θ.  k: −M⁻¹Q_θ.  a: weights of V_x after the stage, None at the last one.
    C: the core its policy reacts with.  response: resp(Y, k).  carried: resp(Y, previous).
    before: the core of V_xx before the stage.
    """

    stage: Stage
    Q: Params
    k: Params
    a: Tensor | None
    C: Tensor
    response: Tensor
    carried: Tensor | None
    before: Tensor


@dataclass(frozen=True)
class Problem:
    """One step's control problem: stages in forward order, the kind of value, and its terminal core C_T.

    blocks: of C_T, (N, r, r), as made by ``value.start``.
    """

    stages: Sequence[Stage]
    value: Value
    blocks: Tensor
    pace: Pace = Pace()
    saturation: Saturation = field(default_factory=lambda: Saturation(bound=None))

    @cached_property
    def C(self) -> Tensor:
        """C_T as the value keeps it, where the recursion asks for it."""
        return self.value.whole(self.blocks)


def backward_pass(problem: Problem) -> list[Gain]:
    """Gains of all stages, in forward order."""
    gains: list[Gain] = []
    C, a = problem.C, None
    for stage in reversed(problem.stages):
        gain, C, a = back_up(problem, stage, C, a)
        gains.append(gain)
    return gains[::-1]


def back_up(problem: Problem, stage: Stage, C: Tensor, a: Tensor | None) -> tuple[Gain, Tensor, Tensor]:
    """One stage of the recursion: its gain, and (C, a) of the stage before it."""
    C, a = problem.value.meet(stage, C, a, problem.saturation.coordinates)
    Q = stage.gradient if a is None else plus(stage.gradient, stage.pull(problem.saturation.hold(a)))
    k = minus(stage.solve(Q))
    response = stage.resp(k)
    carried = stage.carried
    entering = torch.zeros_like(response) if a is None else a
    policy_C, before, a_before = problem.value.backward(stage, C, entering, problem.pace.whole(response, carried))
    return Gain(stage, Q, k, a, policy_C, response, carried, before), before, a_before
