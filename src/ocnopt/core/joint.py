"""The coupled policy of all stages from one linear system, where nothing limits or paces it.

With the linear roll-out, a coupled value takes every stage to −M δθ = Q_θ + pull(Y C_T e_T), where e_T is the whole
deviation of the outputs (DESIGN, section 2). With the gradient written in the columns, Q_θ = pull(c) + s, this is

    −M δθ = pull(x) + s        (I + C_T G) x = c − C_T Yᵀf_θ M⁻¹ s        G = Σ_t (f_θᵀY)ᵀ M_t⁻¹ (f_θᵀY)

The stages agree with those of the recursion to rounding, and here rounding is not multiplied by M⁻¹ ~ 1/λ: the
recursion forms −M δθ as a difference of numbers that nearly cancel, x does not. s is what weight decay and clipping
have added to the gradient of the loss, and otherwise nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..linalg.cores import System, factorised
from ..linalg.symmetric import Tally
from .bellman import Problem
from .gram import lower_gram
from .policy import Step
from .protocols import Params
from .stage import Stage, inner, minus, plus


class Joint(list[Step]):
    """The steps of all stages, and the system that has given them, which stays factorised as long as they are kept."""

    def __init__(self, steps: Iterable[Step], problem: Problem, system: System) -> None:
        super().__init__(steps)
        self.problem, self.system = problem, system

    def towards(self, a: Tensor) -> list[Step]:
        """Steps of the same system from the gradient pull(C a) in place of Q_θ, for a (N, r)."""
        x = self.system.solve(weighed(self.problem.blocks, a))
        return [settled(stage, stage.pull(x)) for stage in self.problem.stages]


def joint_steps(problem: Problem, tally: Tally) -> Joint:
    """Steps of all stages, in forward order; the problem's value is coupled, its saturation has no bound."""
    C = problem.blocks
    G = lower_gram(problem.stages, C.dtype)
    c = coordinates_of(problem)
    rests = remainders(problem.stages, c, G)
    system = factorised(C, G, tally)
    x = system.solve(c - weighed(C, response(problem.stages, rests)))
    steps = (settled(stage, plus(stage.pull(x), rest)) for stage, rest in zip(problem.stages, rests, strict=True))
    return Joint(steps, problem, system)


def weighed(C: Tensor, a: Tensor) -> Tensor:
    """C a for blocks C (N, r, r) and a (N, r)."""
    return (C @ a[..., None].to(C))[..., 0]


def coordinates_of(problem: Problem) -> Tensor:
    """c: of v in the columns, (N, r); ones where Y = v."""
    stage, c = problem.stages[0], problem.saturation.coordinates
    return problem.blocks.new_ones(stage.samples.count, stage.rank) if c is None else c.to(problem.blocks)


def remainders(stages: Sequence[Stage], c: Tensor, G: Tensor) -> list[Params]:
    """s = Q_θ − pull(c) of every stage; zero where it is no more than the rounding of pull(c), which M⁻¹ would blow up.

    Of pull(c) itself |pull(c)|² ≤ |c|² tr G in the metric M⁻¹, and so is its rounding error, relative to that.
    """
    rests = [plus(stage.gradient, minus(stage.pull(c))) for stage in stages]
    size = sum(inner(rest, stage.solve(rest)) for stage, rest in zip(stages, rests, strict=True))
    rounding = torch.finfo(G.dtype).eps ** 0.75
    if size > rounding**2 * c.square().sum() * G.trace():
        return rests
    return [tuple(torch.zeros_like(part) for part in rest) for rest in rests]


def response(stages: Sequence[Stage], d: Sequence[Params]) -> Tensor:
    """Σ_t Yᵀ f_θ M_t⁻¹ d_t, (N, r)."""
    return torch.stack([stage.resp(stage.solve(part)) for stage, part in zip(stages, d, strict=True)]).sum(0)


def settled(stage: Stage, effective: Params) -> Step:
    """The step whose −M δθ is given."""
    step = minus(stage.solve(effective))
    return Step(effective, step, stage.resp(step))
