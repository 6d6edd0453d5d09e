"""A vector field and the states it leads through, on a whole grid of times."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class Field(nn.Module):
    """dx/dt = net(x), or net(x³), with the calls counted; torchdiffeq calls it as field(t, x)."""

    def __init__(self, widths: tuple[int, ...], power: int) -> None:
        super().__init__()
        layers = [(nn.Linear(fan_in, fan_out), nn.Tanh()) for fan_in, fan_out in pairwise(widths)]
        self.net = nn.Sequential(*[module for layer in layers for module in layer][:-1])
        self.power, self.calls = power, 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """x (B, states)."""
        self.calls += 1
        return self.net(x**self.power)


class Rollout(nn.Module):
    """Initial states (B, states) → states (B, times, states) on a grid of times, gradients by the adjoint ODE."""

    times: Tensor

    def __init__(self, field: Field, times: Tensor, tolerance: float = 1e-4) -> None:
        super().__init__()
        self.field, self.tolerance = field, tolerance
        self.register_buffer("times", times, persistent=False)
        self.nfe_forward = 0

    @property
    def nfe_backward(self) -> int:
        """Evaluations of the field since the last forward pass."""
        return self.field.calls - self.nfe_forward

    def forward(self, x: Tensor) -> Tensor:
        from torchdiffeq import odeint_adjoint

        self.field.calls = 0
        states = odeint_adjoint(self.field, x, self.times, rtol=self.tolerance, atol=self.tolerance)
        self.nfe_forward = self.field.calls
        return states.transpose(0, 1)

    @torch.no_grad()
    def along(self, x: Tensor, times: Tensor) -> Tensor:
        """States (B, times, states) at times of the caller's choice."""
        from torchdiffeq import odeint

        return odeint(self.field, x, times, rtol=self.tolerance, atol=self.tolerance).transpose(0, 1)
