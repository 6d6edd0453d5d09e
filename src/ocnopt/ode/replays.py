"""Flows of zuko (FreeFormJacobianTransform), whose backward solve replays every step of the forward one.

zuko solves by Dormand and Prince's method and, on the way back, takes each step t → t − dt once more: six evaluations
of the field with the adjoint q, and  p ← p − dt Σ_j b_j F_θᵀ(−q_j).  The layers therefore hear −F_hᵀ q_j without the
weight −dt b_j, which is known as soon as the step is: its first evaluation is at t and its sixth at t − dt.

Of a transform only its public attribute f, the vector field, is exchanged for one that listens. zuko takes the
divergence from the graph of the same evaluation, so that a layer's v is that of dx/dt and of the divergence together,
as far as that depends on the layer's output. pull(v) is therefore exact for biases; what weights do to the divergence
past all outputs, as factors of the Jacobian, is in ``p.grad`` alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..core.backward import Evaluation, hold, muted
from ..core.capture import Capture, Mode
from ..core.hooks import Hook
from ..core.trajectory import Sweep

WEIGHTS = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
"""b of Dormand and Prince's fifth order."""


@dataclass
class Step:
    """One step of the backward solve: the times of its evaluations, and what was heard in them."""

    times: list[float] = field(default_factory=list)
    heard: list[Evaluation] = field(default_factory=list)

    def deposit(self, T: float) -> None:
        """Add the six evaluations to the trajectory, T the length of the whole solve.

        Those of weight zero are left out. A negative b is no length of time: shares take |b|, and Σ|b| in such a way
        that B of ``curvature.factors`` is T² times the mean of g gᵀ over the times, with weights |b|.
        """
        dt, total = self.times[-1] - self.times[0], sum(map(abs, WEIGHTS))
        for one, b in zip(self.heard, WEIGHTS, strict=True):
            if b:
                one.deposit(dt * b, total * abs(dt * b) / T)


@dataclass(eq=False)
class Listening:
    """The vector field f(t, x) of one transform, in one sweep of the model."""

    f: Callable[[Tensor, Tensor], Tensor]
    T: float
    capture: Capture
    number: int
    sweep: Sweep
    step: Step = field(default_factory=Step)

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        if torch._C._current_graph_task_id() == -1 or not x.requires_grad:
            with muted():  # the forward solve: nothing comes back to it
                return self.f(t, x)
        if self.capture.mode is Mode.LOSS:
            self.capture.begin()
        self.capture.resume(self.number, self.sweep)
        one = Evaluation()
        hold(one)
        x.register_hook(lambda gradient: self.close(float(t), one))
        return self.f(t, x)

    def close(self, t: float, one: Evaluation) -> None:
        """The gradient has reached the state that entered, and so all layers before."""
        if torch.is_grad_enabled():
            return  # that of the divergence
        hold(None)
        self.step.times.append(t)
        self.step.heard.append(one)
        if len(self.step.times) == len(WEIGHTS):
            self.step.deposit(self.T)
            self.step = Step()


def listen(model: nn.Module, capture: Capture) -> list[Any]:
    """Hook the transforms of zuko that solve an equation. Returns the handles of the hooks."""
    zuko = sys.modules.get("zuko")
    if zuko is None:
        return []
    kind = zuko.flows.FFJTransform
    hook = Hook(capture, hear)
    return [module.register_forward_hook(hook) for module in model.modules() if isinstance(module, kind)]


def hear(capture: Capture, module: nn.Module, args: Any, transform: Any) -> None:
    """Let the transform that a module returns listen."""
    if capture.listening and torch.is_grad_enabled():
        T = abs(float(transform.t1) - float(transform.t0))
        transform.f = Listening(transform.f, T, capture, capture.sweep, capture.current)
