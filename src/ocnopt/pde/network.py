"""A network whose state is a jet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from .jets import Directions
from .layers import ACTIVATIONS, JetLinear


class JetNetwork(nn.Module):
    """Points (B, d) to the jet (B, J, out) of a network with layers of the given widths, d and out included.

    The parameters are in float64: second derivatives lose half of the digits of a number, and a residual must show
    the rest. They have the names and shapes of ``nn.Sequential(nn.Linear, activation, nn.Linear, …)``.
    """

    def __init__(self, widths: Sequence[int], activation: str, directions: Directions) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation={activation!r} is not known; choose one of {', '.join(ACTIVATIONS)}.")
        if len(widths) < 2 or widths[0] != directions.dim:
            raise ValueError(
                f"JetNetwork(widths={list(widths)}) must begin with the {directions.dim} coordinates of a direction "
                "and end with the outputs."
            )
        self.directions = directions
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(widths):
            layers += [JetLinear(n_in, n_out, dtype=torch.float64), ACTIVATIONS[activation](directions)]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, points: Tensor) -> Tensor:
        return self.layers(self.directions.start(points))
