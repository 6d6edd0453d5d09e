"""What a step will do to the objective, from the responses at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .core.acceptance import Line
from .core.policy import Step
from .core.protocols import Params
from .core.search import bellman_quadratic, output_curvature
from .core.stage import Stage, inner, minus
from .gathering import Turn
from .played import Played, directions, weighted_core


def step_of(turn: Turn) -> Params:
    """δθ; of a turn that follows a diagonal rule, −M⁻¹Q_θ."""
    return turn.step or minus(turn.metric.solve(tuple(turn.gradients)))  # type: ignore[union-attr]


def objective(loss: float, turns: Sequence[Turn]) -> float:
    """L + ½ γ |θ|²."""
    pairs = ((p, group["weight_decay"]) for turn in turns for p, group in zip(turn.params, turn.groups, strict=True))
    return loss + sum(0.5 * w * float(p.double().square().sum()) for p, w in pairs if w)


def line_of(turns: Sequence[Turn], played: Played | None) -> Line:
    """b and H along the step that will be taken. Where no response is known a turn's own metric stands for H."""
    b, H = 0.0, 0.0
    if played is not None:
        played = at_own_rates(played, turns)
        slopes, R, overlap = directions(played)
        quadratic = bellman_quadratic(slopes[:1], R[:1], weighted_core(played.boundary), overlap[:1, :1], 0.0)
        b, H = float(quadratic.b), float(quadratic.H)
    for turn in turns:
        for d, Q, group in zip(step_of(turn), turn.gradients, turn.groups, strict=True):
            rate = float(group["lr"])
            if turn.feedback:
                H += group["weight_decay"] * rate**2 * float(inner((d,), (d,)))
            else:
                slope = float(inner((d,), (Q,)))
                b, H = b + rate * slope, H - rate**2 * slope
    return Line(b, H)


def line_along(turns: Sequence[Turn], played: Played | None, moves: Sequence[Sequence[Tensor]]) -> Line:
    """b and H along given moves of all turns, each of which is a player of its own or has none."""
    by_label = {turn.seat.path: tuple(move) for turn, move in zip(turns, moves, strict=True)}
    b = sum(float(inner(tuple(m), tuple(t.gradients))) for t, m in zip(turns, moves, strict=True))
    H = sum(
        group["weight_decay"] * float(m.square().sum())
        for turn, move in zip(turns, moves, strict=True)
        for m, group in zip(move, turn.groups, strict=True)
    )
    if played is not None:
        R = torch.stack([stage.resp(by_label[stage.label]) for stage in played.stages]).sum(0)
        H += float(output_curvature(R[None], weighted_core(played.boundary)))
    return Line(b, H)


def at_own_rates(played: Played, turns: Sequence[Turn]) -> Played:
    """The steps as far as they will be taken."""
    pairs = ((p, group) for turn in turns for p, group in zip(turn.params, turn.groups, strict=True))
    return at_rates(played, {id(p): float(group["lr"]) for p, group in pairs})


def at_rates(played: Played, rates: dict[int, float]) -> Played:
    """Every parameter's step times the rate of its group."""
    pairs = zip(played.stages, played.steps, strict=True)
    steps = [at_rate(stage, step, [rates[id(p)] for p in stage.player.parameters]) for stage, step in pairs]
    return Played(played.stages, steps, played.boundary)


def at_rate(stage: Stage, step: Step, rates: Sequence[float]) -> Step:
    d = tuple(rate * x for rate, x in zip(rates, step.step, strict=True))
    same = all(rate == rates[0] for rate in rates)
    return replace(step, step=d, response=rates[0] * step.response if same else stage.resp(d))
