"""LevenbergMarquardt(acceleration=): a coupled step bent along the path of the outputs (``core.geodesic``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from .core import geodesic
from .core.capture import Capture
from .core.joint import Joint
from .core.policy import Step
from .core.stage import plus
from .core.trajectory import Outputs
from .evaluating import Again, tensors_kept_unless
from .gathering import Turn
from .played import Played
from .predicting import at_own_rates
from .solving import Solver, plainly


class Bend(NamedTuple):
    """ratio: 2‖δ₂‖/‖δ₁‖, nan where it was not looked for or not found.  taken: whether the step is δ₁ + δ₂."""

    ratio: float = math.nan
    taken: bool = False


STRAIGHT = Bend()


def accelerated(solver: Solver, turns: Sequence[Turn], played: Played | None, again: Again, limit: float) -> Bend:
    """Add δ₂ to the steps of the turns that played, if 2‖δ₂‖/‖δ₁‖ is at most ``limit``.

    Only the linear system of coupled steps gives it, and only a closure with ``optimizer.backward`` shows the outputs.
    """
    if played is None or not isinstance(played.steps, Joint):
        return STRAIGHT
    playing, outputs = [turn for turn in turns if turn.feedback], outputs_of(again.capture)
    moved = along(solver, playing, again) if outputs.keys() == played.boundary.samples.rows.keys() else []
    if not outputs or [x.shape for x in moved] != [found.h.shape for found in outputs.values()]:
        solver.tally["accelerations without outputs"] += 1
        return STRAIGHT
    with plainly(turns):
        second = correction(turns, played, outputs, moved)
        found = geodesic.ratio(played.steps, second)
        if not found <= limit:
            solver.tally["accelerations refused"] += 1
            return Bend(found)
        by_label = {stage.label: step for stage, step in zip(played.stages, second, strict=True)}
        for turn in playing:
            turn.step = plus(turn.step, by_label[turn.seat.path].step)
    solver.tally["accelerations taken"] += 1
    return Bend(found, True)


def outputs_of(capture: Capture) -> dict[int, Outputs]:
    """What ``optimizer.backward`` was given, by sweep, in the order of its calls."""
    return {n: sweep.outputs for n, sweep in capture.reached.items() if sweep.outputs is not None}


def along(solver: Solver, turns: Sequence[Turn], again: Again) -> list[Tensor]:
    """The outputs a part of the step ahead; the parameters are put back."""
    with tensors_kept_unless(p for turn in turns for p in turn.params):
        for turn in turns:
            for p, d, group in zip(turn.params, turn.step, turn.groups, strict=True):
                p.add_(d.to(p.dtype), alpha=geodesic.STRIDE * float(group["lr"]))
        with solver.watch.phase("closure"):
            return again.outputs()


def correction(
    turns: Sequence[Turn], played: Played, outputs: dict[int, Outputs], moved: Sequence[Tensor]
) -> list[Step]:
    """δ₂ of every stage. The rates multiply it as they do δ₁, along which the outputs have moved."""
    response = sum(step.response for step in at_own_rates(played, turns).steps)
    assert isinstance(response, Tensor) and isinstance(played.steps, Joint)
    a = geodesic.second_derivative(outputs, moved, played.boundary.samples.rows, response)
    return played.steps.towards(0.5 * a)
