"""Layers that act on jets: a linear map of all components, and the chain rule to second order."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .jets import Directions


class JetLinear(nn.Linear):
    """h = W z for every component of a jet z (B, J, n), and + b for its value: derivatives know no constant."""

    def forward(self, jet: Tensor) -> Tensor:
        out = F.linear(jet, self.weight)
        return out if self.bias is None else out + at_value(self.bias, jet)


def at_value(bias: Tensor, jet: Tensor) -> Tensor:
    """The bias as a constant jet (J, n): zero but for component 0."""
    return F.pad(bias.unsqueeze(0), (0, 0, 0, jet.shape[1] - 1))


class Derivatives(NamedTuple):
    """σ, σ′ and σ″, entry by entry."""

    value: Tensor
    first: Tensor
    second: Tensor


class JetActivation(nn.Module):
    """σ of a jet, by the chain rule

        σ(u),   ∂_v σ(u) = σ′(u) ∂_v u,   ∂_v² σ(u) = σ″(u) (∂_v u)² + σ′(u) ∂_v² u

    Subclasses say what σ, σ′ and σ″ are.
    """

    def __init__(self, directions: Directions) -> None:
        super().__init__()
        self.directions = directions

    def derivatives(self, u: Tensor) -> Derivatives:
        """Of the values u (B, n)."""
        raise NotImplementedError

    def forward(self, jet: Tensor) -> Tensor:
        u, first, second = self.directions.split(jet)
        σ = self.derivatives(u)
        slope = σ.first.unsqueeze(1)
        bend = σ.second.unsqueeze(1) * first[:, : self.directions.twice].square() + slope * second
        return torch.cat([σ.value.unsqueeze(1), slope * first, bend], 1)


class JetTanh(JetActivation):
    def derivatives(self, u: Tensor) -> Derivatives:
        y = torch.tanh(u)
        slope = 1 - y * y
        return Derivatives(y, slope, -2 * y * slope)


class JetSin(JetActivation):
    def derivatives(self, u: Tensor) -> Derivatives:
        y = torch.sin(u)
        return Derivatives(y, torch.cos(u), -y)


class JetSoftplus(JetActivation):
    def derivatives(self, u: Tensor) -> Derivatives:
        s = torch.sigmoid(u)
        return Derivatives(torch.logaddexp(u, torch.zeros_like(u)), s, s * (1 - s))


class JetSiLU(JetActivation):
    """u s(u) with the logistic s."""

    def derivatives(self, u: Tensor) -> Derivatives:
        s = torch.sigmoid(u)
        slope = s * (1 - s)
        return Derivatives(u * s, s + u * slope, slope * (2 + u * (1 - 2 * s)))


class JetGELU(JetActivation):
    """u Φ(u) with the distribution function Φ of the standard normal."""

    def derivatives(self, u: Tensor) -> Derivatives:
        below = torch.special.ndtr(u)
        density = torch.exp(-0.5 * u * u) / math.sqrt(2 * math.pi)
        return Derivatives(u * below, below + u * density, density * (2 - u * u))


ACTIVATIONS: dict[str, type[JetActivation]] = {
    "tanh": JetTanh,
    "sin": JetSin,
    "softplus": JetSoftplus,
    "silu": JetSiLU,
    "gelu": JetGELU,
}
