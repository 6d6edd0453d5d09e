"""Stages in the coordinates of their metric, where the gradient enters once and the step leaves once.

M⁻¹ of a metric M = U S Uᵀ takes products with the whole matrix of a layer, and the passes ask for it twice: for
k = −M⁻¹Q_θ, and for what the deviation adds. But all that they add to the gradient is Σ c u zᵀ over the rows of a few
samples. With rows that are turned once,

    x = Uᵀ p.grad      û ẑᵀ = Uᵀ u zᵀ      pull(c) = Σ c û ẑᵀ      resp(x)_i = Σ_p û_pᵀ x ẑ_p

both passes run on x, M⁻¹ is the elementwise S⁻¹ there, and δθ = U x comes back at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor

from .bellman import Gain, Problem
from .gram import Rows, rotated_rows
from .policy import Step
from .protocols import Params
from .stage import Stage, weighted

WORTH = 0.5
"""Turning the rows must take at most this part of the operations of the solve that it saves."""


@dataclass(eq=False)
class Turned(Stage):
    """A stage whose gradient, pulls and steps are one matrix x (g, n_out, n_in), in the coordinates of its metric.

    plain: the stage that it stands for.  rows: of its calls, turned.
    """

    plain: Stage | None = None
    rows: Sequence[Rows] = ()

    def local_pull(self, c: Tensor) -> Params:
        if self.samples.weight is not None:
            c = c * self.samples.weight[:, None]
        return (reduce(torch.add, (outer(weighted(across(U), c), Z) for Z, U in self.rows)),)

    def resp(self, d: Params) -> Tensor:
        return reduce(torch.add, (along(d[0], Z, U) for Z, U in self.rows)).to(self.precision)

    @property
    def carried(self) -> Tensor | None:
        assert self.plain is not None
        return self.plain.carried

    def solve(self, d: Params) -> Params:
        return (self.metric.inverse(d[0]),)  # type: ignore[attr-defined]

    def back(self, d: Params) -> Params:
        """The parameter-shaped d of x."""
        return self.metric.leave(d[0])  # type: ignore[attr-defined]


def across(U: Tensor) -> Tensor:
    """Rows U (r, g, N, P, n_out) with the samples first: (r, N, g, P, n_out)."""
    return U.transpose(1, 2)


def outer(U: Tensor, Z: Tensor) -> Tensor:
    """Σ u zᵀ over all rows U (N, g, P, n_out) and Z (g, N, P, n_in): (g, n_out, n_in)."""
    return U.transpose(0, 1).flatten(1, 2).mT @ Z.flatten(1, 2)


def along(x: Tensor, Z: Tensor, U: Tensor) -> Tensor:
    """Σ_p u_pᵀ x z_p of every sample and column, (N, r)."""
    h = (Z.flatten(1, 2) @ x.mT).unflatten(1, Z.shape[1:3])
    if len(U) == 1:
        return torch.linalg.vecdot(U[0], h).sum((0, 2))[:, None]
    return torch.einsum("rgnpo,gnpo->nr", U, h)


def turned(problem: Problem) -> Problem:
    """The problem with stages in the coordinates of their metrics, where that saves operations."""
    if not problem.value.by_sample:  # others ask for Gram matrices, which are made of plain stages
        return problem
    able = [stage for stage in problem.stages if hasattr(stage.metric, "costs")]
    if not able:
        return problem
    # Ranks may hold different numbers of samples, and must agree on the shapes of what they add up.
    chosen = zip(able, able[0].ranks.all([pays(stage) for stage in able]), strict=True)
    found = {stage: turn(stage) for stage, worth in chosen if worth}
    return replace(problem, stages=[found.get(stage, stage) for stage in problem.stages])


def pays(stage: Stage) -> bool:
    """Whether there are few enough rows."""
    player, metric = cast(Any, stage.player), cast(Any, stage.metric)
    positions = sum(call.Y[0, 0].numel() // player.width for call in stage.calls)
    solve, rows = metric.costs(positions * stage.samples.count)
    return bool(rows <= WORTH * solve)


def turn(stage: Stage) -> Turned:
    """The stage in the coordinates of its metric."""
    metric: Any = stage.metric
    rows, _ = rotated_rows(stage)
    x = metric.enter(stage.gradient)
    own = {field.name: getattr(stage, field.name) for field in fields(stage)}
    return Turned(**own | {"gradient": (x,), "previous": None, "plain": stage, "rows": rows})


def plain_step(stage: Stage, step: Step) -> Step:
    """The step in the shapes of the parameters. Without −M δθ, which no rule for such metrics asks for."""
    return Step((), stage.back(step.step), step.response, step.carried) if isinstance(stage, Turned) else step


def plain_gain(gain: Gain) -> Gain:
    """The gain whose k has the shapes of the parameters."""
    stage = gain.stage
    if not isinstance(stage, Turned) or stage.plain is None:
        return gain
    return replace(gain, stage=stage.plain, Q=stage.back(gain.Q), k=stage.back(gain.k))
