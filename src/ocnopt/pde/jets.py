"""Jets: the value of a function together with its derivatives along given directions, as one tensor.

A jet (B, J, n) holds for every sample the value, then the first derivatives ∂_v along the directions v,
then the second derivatives ∂_v² along the leading ones of them:

    component    0        1 … m          m+1 … m+s
    holds        u        ∂_{v_1} u …    ∂²_{v_1} u … ∂²_{v_s} u        J = 1 + m + s
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Jet(NamedTuple):
    """The parts of a jet: value (B, n), first (B, m, n), second (B, s, n)."""

    value: Tensor
    first: Tensor
    second: Tensor


@dataclass(frozen=True)
class Directions:
    """Along what to differentiate.

    vectors: m directions of d numbers each.  twice: s, along how many of them, from the first on, second derivatives
    are carried too.
    """

    vectors: tuple[tuple[float, ...], ...]
    twice: int = 0

    def __post_init__(self) -> None:
        if len({len(vector) for vector in self.vectors}) != 1:
            raise ValueError("Directions needs at least one vector, and all of the same length.")
        if not 0 <= self.twice <= len(self.vectors):
            raise ValueError(f"Directions(twice={self.twice}) must be one of 0 to {len(self.vectors)}.")

    @classmethod
    def axes(cls, dim: int, twice: int = 0) -> Directions:
        """The coordinate axes of a space of ``dim`` dimensions."""
        return cls(tuple(tuple(float(i == j) for j in range(dim)) for i in range(dim)), twice)

    @property
    def dim(self) -> int:
        return len(self.vectors[0])

    def start(self, points: Tensor) -> Tensor:
        """The jet of x ↦ x at the points (B, d): x, the directions, zeros; (B, J, d)."""
        first = torch.tensor(self.vectors, dtype=points.dtype, device=points.device)
        derivatives = torch.cat([first, first.new_zeros(self.twice, self.dim)])
        return torch.cat([points.unsqueeze(1), derivatives.expand(len(points), -1, -1)], 1)

    def split(self, jet: Tensor) -> Jet:
        """The parts of a jet (B, J, n)."""
        m = len(self.vectors)
        return Jet(jet[:, 0], jet[:, 1 : 1 + m], jet[:, 1 + m :])
