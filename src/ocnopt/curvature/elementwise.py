"""Elementwise updates for the compiler to fuse, the twins of foreach calls: numbers come as tensors of no dimension.

A compiler takes Python's numbers for constants and would compile anew with every new rate.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Tensors = Sequence[Tensor]


def average_squares(v: Tensors, gradients: Tensors, keep: Tensor) -> None:
    for x, g in zip(v, gradients, strict=True):
        x.copy_((keep * x + (1 - keep) * g * g).clamp(max=torch.finfo(x.dtype).max))


def corrected_roots(v: Tensors, corrections: Tensor, eps: Tensor) -> Tensors:
    return [x.sqrt() / corrections[i] + eps for i, x in enumerate(v)]


def move_by_moments(
    params: Tensors, m: Tensors, effective: Tensors, denominators: Tensors, fresh: Tensor, decay: Tensor, steps: Tensor
) -> None:
    for i, (p, x, g, d) in enumerate(zip(params, m, effective, denominators, strict=True)):
        x.copy_(x + fresh * (g - x))
        p.copy_(decay * p + steps[i] * x / d)


def roll(u: Tensors, steps: Tensors, momentum: Tensor, length: Tensor) -> None:
    for x, step in zip(u, steps, strict=True):
        x.copy_(momentum * x + length * step)


def follow(params: Tensors, u: Tensors, decay: Tensor, lr: Tensor) -> None:
    for p, x in zip(params, u, strict=True):
        p.copy_(decay * p + lr * x.to(p.dtype))
