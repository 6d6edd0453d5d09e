"""A differential equation with its boundary and initial conditions as the output of a model.

Each condition asks that a residual r(x, jet of u at x) vanish on its points. The residuals are the output of the
model, so that the loss is the plain mean of their squares and Gauss-Newton at the output is Gauss-Newton of the
equation, also where the equation is not linear in u.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .jets import Jet
from .network import JetNetwork


@dataclass(frozen=True, eq=False)
class Condition:
    """What is asked of the solution on some points.

    points: (N, d).  residual: of points (B, d) and the jet there, (B, k), zero at a solution; it may be asked at the
    points of other conditions too, and is ignored there.  weight: of its mean square in the loss.
    """

    points: Tensor
    residual: Callable[[Tensor, Jet], Tensor]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.points.dim() != 2 or not len(self.points):
            raise ValueError(f"A condition has points of shape {tuple(self.points.shape)}; it needs some, in rows.")
        if not self.weight > 0:
            raise ValueError(f"A condition has weight={self.weight}; it must be a positive number.")


class Residual(nn.Module):
    """(points (B, d), kind (B,)) to the residual (B, k) of the condition that each point belongs to.

    With the samples of all conditions as one batch, the mean of the squares of the output is Σ weight · mean r² over
    the conditions (for k = 1; divided by k otherwise). Parts of them in random order have that as expected value.
    """

    def __init__(self, network: JetNetwork, conditions: Sequence[Condition]) -> None:
        super().__init__()
        if not conditions:
            raise ValueError("Residual needs at least one condition.")
        self.network, self.conditions = network, tuple(conditions)
        total = sum(len(c.points) for c in conditions)
        self.scales = [(c.weight * total / len(c.points)) ** 0.5 for c in conditions]

    @property
    def samples(self) -> tuple[Tensor, Tensor]:
        """Points of all conditions (B, d) and the number of the condition that each belongs to (B,)."""
        points = [c.points for c in self.conditions]
        kinds = [torch.full((len(x),), j, device=x.device) for j, x in enumerate(points)]
        return torch.cat(points), torch.cat(kinds)

    def forward(self, points: Tensor, kind: Tensor) -> Tensor:
        jet = self.network.directions.split(self.network(points))
        parts = [s * c.residual(points, jet) for s, c in zip(self.scales, self.conditions, strict=True)]
        width = max(part.shape[1] for part in parts)
        chosen = [
            nn.functional.pad(torch.where((kind == j).unsqueeze(1), part, 0.0), (0, width - part.shape[1]))
            for j, part in enumerate(parts)
        ]
        return torch.stack(chosen).sum(0)
