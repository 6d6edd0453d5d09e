"""The forward policy pass with the linear roll-out: every layer reacts to what the earlier ones did.

In order of first call, with the core C that the backward pass left at the stage (DESIGN, section 2):

    δθ = k − M⁻¹ pull(Y C (e + resp(Y, k)))
    e  ← e + resp(Y, δθ)

e is the deviation of the state in the coordinates of Y; one product per layer, no second forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .bellman import Gain, Problem
from .protocols import Params
from .stage import Stage, less, minus, plus
from .value import accumulated


@dataclass(eq=False)
class Step:
    """The proposal for one stage.

    effective: −M δθ, the gradient that an update rule may take in place of p.grad.
    step: δθ.  response: resp(Y, δθ), (N, r).  carried: resp(Y, previous), (N, r) or None.
    """

    effective: Params
    step: Params
    response: Tensor
    carried: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """All that it moves the parameters and the search by."""
        return [*self.step, *self.effective, self.response]


def forward_pass(problem: Problem, gains: Sequence[Gain]) -> list[Step]:
    """Steps of all stages, in forward order, with the linear roll-out of e."""
    steps = []
    e = None
    for gain in gains:
        step = react(problem, gain, e)
        e = accumulated(e, problem.pace.whole(step.response, gain.carried))
        steps.append(step)
    return steps


def react(problem: Problem, gain: Gain, e: Tensor | None) -> Step:
    """The policy of one stage for the deviation e (None: no layer before it has moved)."""
    policy = policy_of(problem, gain, e)
    if policy is None:
        return Step(gain.Q, gain.k, gain.response, gain.carried)
    effective, step = policy
    return Step(effective, step, gain.stage.resp(step), gain.carried)


def policy_of(problem: Problem, gain: Gain, e: Tensor | None) -> tuple[Params, Params] | None:
    """(−M δθ, δθ) with δθ = k − M⁻¹ pull(Y C deviation); None where nothing deviates and δθ = k."""
    response = problem.pace.whole(gain.response, gain.carried)
    deviation = problem.value.deviation(gain.stage, e, response)
    if deviation is None:
        return None
    c = problem.value.weigh(gain.C, deviation)
    correction = gain.stage.pull(held_beside(problem, gain, c))
    return plus(gain.Q, correction), less(gain.k, gain.stage.solve(correction))


def held_beside(problem: Problem, gain: Gain, c: Tensor) -> Tensor:
    """c within what the limits leave beside the weights that already entered Q_θ."""
    limits = problem.saturation
    total = c if gain.a is None else gain.a + c
    limits.count(total)
    return limits.hold(total) if gain.a is None else limits.hold(total) - limits.hold(gain.a)


def open_loop(stages: Sequence[Stage]) -> list[Step]:
    """Steps without feedback, k = −M⁻¹Q_θ with V_xx = 0, and the responses that the search needs."""
    return [still(stage, minus(stage.solve(stage.gradient))) for stage in stages]


def still(stage: Stage, k: Params) -> Step:
    return Step(stage.gradient, k, stage.resp(k), stage.carried)
