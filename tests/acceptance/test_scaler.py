"""torch.amp.GradScaler: the scale of the loss is nobody's business but the scaler's."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from acceptance_cases import PROBLEMS, Run, distance, every_kind, same, snapshot, weights
from torch import Tensor, nn
from torch.nn import functional as F

from ocnopt.core.rollout import Linear
from ocnopt.options import TERMINALS

SCALE = 2.0**16

Loss = Callable[[nn.Module, Tensor], Tensor]


def smoothed_loss(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x), (x.sum(1) > 0).long(), label_smoothing=0.1)


def squared_error(model: nn.Module, x: Tensor) -> Tensor:
    return F.mse_loss(model(x), x[:, :3].sin())


LOSSES: dict[str, Loss] = {"cross-entropy": PROBLEMS["mlp"].loss, "squared-error": squared_error}


COLUMNS = {"gauss-newton": "cross-entropy", "fisher": "cross-entropy", "true-vs-rest": "squared-error"}
"""Terminal factors and losses for which they need ``optimizer.backward``."""


class Scaled:
    """A run whose loss is scaled.

    clip: call ``unscale_`` and clip, with a limit that binds now and then.  columns: use ``optimizer.backward``.
    """

    def __init__(self, run: Run, clip: bool = False, columns: bool = False) -> None:
        self.run, self.clip, self.columns = run, clip, columns
        self.scaler = torch.amp.GradScaler("cpu", init_scale=SCALE, growth_interval=3)

    def backward(self, step: int, factor: float = 1.0) -> None:
        x = self.run.problem.draw(step).double()
        outputs: list[Tensor] = []
        handle = self.run.model.register_forward_hook(lambda module, args, output: outputs.append(output))
        loss = self.scaler.scale(self.run.problem.loss(self.run.model, x) * factor)
        handle.remove()
        if self.columns:
            self.run.optimizer.backward(loss, outputs[0])
        else:
            loss.backward()

    def step(self, step: int, factor: float = 1.0) -> None:
        self.run.optimizer.zero_grad()
        self.backward(step, factor)
        if self.clip:
            self.scaler.unscale_(self.run.optimizer)
            nn.utils.clip_grad_norm_(self.run.model.parameters(), 0.5)
        self.scaler.step(self.run.optimizer)
        self.scaler.update()


def pair(name: str, loss: Loss = PROBLEMS["mlp"].loss, **options: bool) -> tuple[Scaled, Scaled]:
    """With a scaler that scales, and with one that is switched off."""
    runs = Scaled(Run(name), **options), Scaled(Run(name), **options)
    for scaled in runs:
        scaled.run.problem = PROBLEMS["mlp"]._replace(loss=loss)
    runs[1].scaler = torch.amp.GradScaler("cpu", enabled=False)
    return runs


@every_kind
def test_scaling_of_squared_errors_changes_nothing(name: str) -> None:
    """Failing, steps shrink or grow by powers of the scale, and change whenever the scaler changes its mind."""
    scaled, plain = pair(name, squared_error)
    for step in range(8):
        scaled.step(step)
        plain.step(step)
    assert scaled.scaler.get_scale() > SCALE
    assert distance(scaled.run.model, plain.run.model) < 1e-10


@every_kind
def test_soft_targets_under_a_steady_scale(name: str) -> None:
    """Failing, label smoothing loses its curvature in mixed precision. They are told from the second step on."""
    scaled, plain = pair(name, smoothed_loss)
    scaled.scaler.set_growth_interval(100)
    for step in range(6):
        scaled.step(step)
        if step == 0:
            plain.run.model.load_state_dict(scaled.run.model.state_dict())
            state = copy.deepcopy(scaled.run.optimizer.state_dict())
            state["param_groups"][0].get("clock", {}).pop("scale", None)
            plain.run.optimizer.load_state_dict(state)
        else:
            plain.step(step)
    assert distance(scaled.run.model, plain.run.model) < 1e-10


@every_kind
@pytest.mark.parametrize("terminal", COLUMNS)
def test_columns_of_a_scaled_loss(name: str, terminal: str) -> None:
    """Failing, exact curvature under a scaler is that of the scaled loss. The control has a plain backward pass."""
    scaled, plain = pair(name, LOSSES[COLUMNS[terminal]], columns=name != "adamw")
    for side in (scaled, plain):
        side.run.optimizer.terminal = TERMINALS[terminal]()
    for step in range(4):
        scaled.step(step)
        plain.step(step)
    assert distance(scaled.run.model, plain.run.model) < 1e-9


@every_kind
@pytest.mark.parametrize("zero", ["optimizer", "model"])
def test_a_skipped_step_leaves_no_trace(name: str, zero: str) -> None:
    """Failing, the gradients of a step that overflowed, infinite as they are, come back in the averages of the next."""
    scaled, plain = pair(name)
    if zero == "model":
        for side in (scaled, plain):
            side.run.optimizer.zero_grad = side.run.model.zero_grad
    for step in range(3):
        scaled.step(step)
        plain.step(step)
    before = snapshot(scaled.run)
    scaled.step(50, float("inf"))
    scaled.step(51, float("inf"))
    assert scaled.scaler.get_scale() == SCALE / 2
    assert same(before, snapshot(scaled.run))
    for step in range(3, 7):
        scaled.step(step)
        plain.step(step)
    assert all(bool(p.isfinite().all()) for p in weights(scaled.run.model).values())
    assert distance(scaled.run.model, plain.run.model) < 1e-10


@every_kind
def test_accumulation_under_a_scaler(name: str) -> None:
    """Failing, only plain loops are safe: micro-batches of one step are unscaled once too often or not at all."""
    scaled, plain = pair(name)
    if name == "ekfac-nonlinear":  # which takes one forward pass for each step
        scaled.run.optimizer.rollout = plain.run.optimizer.rollout = Linear(None, None)
    for step in range(4):
        for side in (scaled, plain):
            side.run.optimizer.zero_grad()
            side.backward(step, 0.5)
            side.backward(step + 20, 0.5)
            side.scaler.step(side.run.optimizer)
            side.scaler.update()
    assert distance(scaled.run.model, plain.run.model) < 1e-10
