"""torch.amp.GradScaler: the scale of the loss is nobody's business but the scaler's."""

from __future__ import annotations

import torch
from torch import nn

from ocnopt_lab.acceptance.check import Bench, Contender, require
from ocnopt_lab.acceptance.loops import alike
from ocnopt_lab.acceptance.run import Run, same, weights

SCALE = 2.0**16


class Scaled:
    """A run whose loss is scaled; clip: between ``unscale_`` and ``step``, with a limit that binds now and then."""

    def __init__(self, run: Run, clip: bool, enabled: bool) -> None:
        self.run, self.clip = run, clip
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=2, enabled=enabled)

    def step(self, step: int, factor: float = 1.0) -> None:
        self.run.optimizer.zero_grad()
        self.scaler.scale(self.run.loss(step) * factor).backward()
        if self.clip:
            self.scaler.unscale_(self.run.optimizer)
            nn.utils.clip_grad_norm_(self.run.model.parameters(), 0.5)
        self.scaler.step(self.run.optimizer)
        self.scaler.update()


def scaling(contender: Contender, bench: Bench) -> None:
    """Steps are those without a scaler, also where gradients are clipped, and an overflow leaves no trace."""
    for clip in (False, True):
        runs = [Scaled(contender.run(), clip, enabled) for enabled in (True, False)]
        for step in range(2):
            for run in runs:
                run.step(step)
        without_trace(runs[0])
        for step in range(2, 4):
            for run in runs:
                run.step(step)
        how = "with clip_grad_norm_ after unscale_" if clip else "as it grows"
        alike(runs[0].run.model, runs[1].run.model, contender.rounding, f"the scale, {how}, changes weights")


def without_trace(scaled: Scaled) -> None:
    """An overflow skips the step; what it leaves in the state shows in the steps that follow."""
    before, scale = weights(scaled.run.model), scaled.scaler.get_scale()
    require(scale > SCALE, "the scale does not grow")
    scaled.step(50, float("inf"))
    require(scaled.scaler.get_scale() == scale / 2, "the scaler has not seen the overflow")
    require(same(before, weights(scaled.run.model)), "a step that overflowed changes weights")
