"""Vector fields F(t, x) for flows, as in FFJORD (arXiv 1810.01367), made of layers that every sample passes by itself.

The time enters every layer as a column with one row for each sample: the layers that it passes are then players like
all others, with a row for every sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class Concat(nn.Module):
    """W [x, t] + b."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in + 1, n_out)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """t (B, 1), x (B, n_in); returns (B, n_out)."""
        return self.linear(torch.cat([x, t], dim=1))


class ConcatSquash(nn.Module):
    """(W x + b) σ(u t + c) + w t: the time gates and shifts a linear layer."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.linear, self.gate = nn.Linear(n_in, n_out), nn.Linear(1, n_out)
        self.shift = nn.Linear(1, n_out, bias=False)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """t (B, 1), x (B, n_in); returns (B, n_out)."""
        return self.linear(x) * self.gate(t).sigmoid() + self.shift(t)


class Field(nn.Module):
    """A multilayer perceptron that knows the time.

    dim: of the state.  hidden: widths.  layer: made as layer(n_in, n_out), called as layer(t, x).
    activation: smooth, for the divergence is differentiated.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        layer: Callable[[int, int], nn.Module] = ConcatSquash,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layer(n, m) for n, m in pairwise((dim, *hidden, dim)))
        self.activation = activation

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """t one number, x (B, dim); returns dx/dt."""
        column = t.to(x).expand(x.shape[0], 1)
        *inner, last = self.layers
        for layer in inner:
            x = self.activation(layer(column, x))
        return last(column, x)
