"""Diagonal curvatures: the identity, and the root-mean-square gradients of RMSprop and Adam.

Each is torch's own optimizer in three parts: statistics of the gradient, the denominators that are
its metric M = denominator/lr, and the rule that an effective gradient −M δθ enters. With feedback
off the effective gradient is the gradient, and the rule is torch's, weight for weight.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..core.compiling import compilable
from . import elementwise

State = dict[str, Any]
Group = dict[str, Any]
Tensors = list[Tensor]


def in_parts(
    rule: Diagonal, params: Tensors, gradients: Tensors, states: Sequence[State], group: Group, bound: float
) -> None:
    """torch's own step, where nobody asks for the metric in between.  bound: no entry of a gradient is larger."""
    rule.statistics(gradients, states, group)
    rule.apply(params, gradients, rule.denominators(states, group), states, group)


@dataclass(frozen=True)
class SGD:
    """M = I/lr; torch.optim.SGD with momentum, dampening 0, no Nesterov term.

    unit: the longest step, in multiples of the gradient, that search="model" may take.
    """

    unit: float = 1.0
    decoupled_decay = False
    momentum = 0.9
    default_lr = 1e-2
    feedback_samples = 16
    whole = in_parts

    def statistics(self, gradients: Tensors, states: Sequence[State], group: Group) -> None:
        """A plain gradient step keeps none."""

    def denominators(self, states: Sequence[State], group: Group) -> list[Tensor | float]:
        return [1.0] * len(states)

    def apply(
        self,
        params: Tensors,
        effective: Tensors,
        denominators: Sequence[Tensor | float],
        states: Sequence[State],
        group: Group,
    ) -> None:
        torch._foreach_add_(params, heavy_ball(effective, states, group["momentum"]), alpha=-group["lr"])


@dataclass(frozen=True)
class RMSprop:
    """M = diag(√v + ε)/lr, v the running mean of squared gradients; torch.optim.RMSprop, not centred.

    alpha: averaging coefficient of v.  unit: as in ``SGD``, in multiples of g/√v.
    """

    alpha: float = 0.99
    eps: float = 1e-8
    unit: float = 0.03
    decoupled_decay = False
    momentum = 0.0
    default_lr = 1e-3
    feedback_samples = 16
    whole = in_parts

    def __post_init__(self) -> None:
        require_fraction("alpha", self.alpha)
        require_positive("eps", self.eps)

    def statistics(self, gradients: Tensors, states: Sequence[State], group: Group) -> None:
        v = buffers(states, "square_avg", gradients)
        average_squares(v, gradients, self.alpha)

    def denominators(self, states: Sequence[State], group: Group) -> list[Tensor | float]:
        root = torch._foreach_sqrt([state["square_avg"] for state in states])
        torch._foreach_add_(root, self.eps)
        return [*root]

    def apply(
        self,
        params: Tensors,
        effective: Tensors,
        denominators: Sequence[Tensor | float],
        states: Sequence[State],
        group: Group,
    ) -> None:
        if group["momentum"] == 0:
            torch._foreach_addcdiv_(params, effective, tensors(denominators), value=-group["lr"])
            return
        buffer = buffers(states, "momentum_buffer", effective)
        torch._foreach_mul_(buffer, group["momentum"])
        torch._foreach_addcdiv_(buffer, effective, tensors(denominators))
        torch._foreach_add_(params, buffer, alpha=-group["lr"])


@dataclass(frozen=True)
class Adam:
    """M = diag(√v̂ + ε)/lr with bias-corrected v̂; torch.optim.AdamW, the first moment taken by the rule."""

    eps: float = 1e-8
    unit: float = 0.03
    decoupled_decay = True
    momentum = 0.9
    default_lr = 1e-3
    feedback_samples = 16

    def __post_init__(self) -> None:
        require_positive("eps", self.eps)

    def statistics(self, gradients: Tensors, states: Sequence[State], group: Group) -> None:
        beta2 = group["betas"][1]
        v = buffers(states, "exp_avg_sq", gradients)
        average_squares(v, gradients, beta2)
        count_step(states)

    def denominators(self, states: Sequence[State], group: Group) -> list[Tensor | float]:
        beta2 = group["betas"][1]
        corrections = [math.sqrt(1 - beta2 ** state["step"]) for state in states]
        return [*corrected_roots([state["exp_avg_sq"] for state in states], corrections, self.eps)]

    def apply(
        self,
        params: Tensors,
        effective: Tensors,
        denominators: Sequence[Tensor | float],
        states: Sequence[State],
        group: Group,
    ) -> None:
        lr, beta1 = group["lr"], group["betas"][0]
        m = buffers(states, "exp_avg", effective)
        steps = [-lr / (1 - beta1 ** state["step"]) for state in states]
        move_by_moments(params, m, effective, tensors(denominators), 1 - beta1, 1 - lr * group["weight_decay"], steps)

    def whole(self, params: Tensors, gradients: Tensors, states: Sequence[State], group: Group, bound: float) -> None:
        """``in_parts`` in torch's one pass over everything, where no square is too large for a second moment."""
        m, v = (buffers(states, name, gradients) for name in ("exp_avg", "exp_avg_sq"))
        fits = bound * bound <= min(torch.finfo(p.dtype).max for p in params)
        if not (fits and alike(params, gradients, m, v)):
            return in_parts(self, params, gradients, states, group, bound)
        count_step(states)
        named = {name: group[name] for name in ("lr", "weight_decay")}
        named |= {"beta1": group["betas"][0], "beta2": group["betas"][1], "eps": self.eps}
        steps = counted(states, params[0].device)
        torch._fused_adamw_(params, gradients, m, v, [], steps, amsgrad=False, maximize=False, **named)


Diagonal = SGD | RMSprop | Adam


def tensors(denominators: Sequence[Tensor | float]) -> Tensors:
    """Denominators of a curvature that has one tensor for each parameter, as torch's foreach functions want them."""
    return [d for d in denominators if isinstance(d, Tensor)]


def buffers(states: Sequence[State], name: str, like: Tensors) -> Tensors:
    """The named state of every parameter, zeros at first."""
    for state, x in zip(states, like, strict=True):
        if name not in state:
            state[name] = torch.zeros_like(x)
    return [state[name] for state in states]


@compilable(elementwise.corrected_roots)
def corrected_roots(v: Tensors, corrections: Sequence[float], eps: float) -> Sequence[Tensor]:
    """√v over its bias correction, plus ε."""
    root = torch._foreach_sqrt(v)
    torch._foreach_div_(root, corrections)
    torch._foreach_add_(root, eps)
    return root


@compilable(elementwise.move_by_moments)
def move_by_moments(
    params: Tensors,
    m: Tensors,
    effective: Tensors,
    denominators: Tensors,
    fresh: float,
    decay: float,
    steps: Sequence[float],
) -> None:
    """m ← m + fresh (g − m), p ← decay·p + step·m/denominator."""
    torch._foreach_lerp_(m, effective, fresh)
    torch._foreach_mul_(params, decay)
    torch._foreach_addcdiv_(params, m, denominators, steps)


@compilable(elementwise.average_squares)
def average_squares(v: Tensors, gradients: Tensors, keep: float) -> None:
    """v ← keep·v + (1 − keep)·g², at most the largest number: a finite gradient can have a square that is not."""
    torch._foreach_mul_(v, keep)
    torch._foreach_addcmul_(v, gradients, gradients, value=1 - keep)
    torch._foreach_clamp_max_(v, [torch.finfo(x.dtype).max for x in v])


def alike(*lists: Tensors) -> bool:
    """Whether one kernel can go through all of them: dense, one dtype, one device, and one order of the entries."""
    first = lists[0][0]
    kind = first.dtype, first.device
    fits = all((x.dtype, x.device) == kind and x.is_contiguous() for tensors in lists for x in tensors)
    return fits and first.is_floating_point() and first.device.type in ("cpu", "cuda")


def count_step(states: Sequence[State]) -> None:
    """One more step of every parameter."""
    for state in states:
        state["step"] = state.get("step", 0) + 1


def counted(states: Sequence[State], device: torch.device) -> Tensors:
    """The number of the step for every parameter, as a tensor; one for all that are alike."""
    numbers = {state["step"] for state in states}
    known = {n: torch.full((), float(n), device=device) for n in numbers}
    return [known[state["step"]] for state in states]


def heavy_ball(steps: Tensors, states: Sequence[State], momentum: float) -> Tensors:
    """b ← μ b + step for every parameter; the steps themselves without momentum."""
    if momentum == 0:
        return steps
    ball = buffers(states, "momentum_buffer", steps)
    torch._foreach_mul_(ball, momentum)
    torch._foreach_add_(ball, steps)
    return ball


def require_fraction(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value} must lie in [0, 1).")


def require_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name}={value} must be a positive number.")
