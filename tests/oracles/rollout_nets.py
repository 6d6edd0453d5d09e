"""Networks whose nonlinearities are modules, so that the roll-out sees all of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

CLASSES = 3


class Residual(nn.Module):
    """Two blocks: one pre-activated, one added in place to what an in-place activation then overwrites."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.shortcut, self.act, self.elu = nn.Identity(), nn.Tanh(), nn.ELU(inplace=True)
        self.norm, self.head = nn.LayerNorm(5), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(self.act(x))
        out = self.shortcut(self.second(x))
        out += x
        return self.head(self.norm(self.elu(out)))


class Shared(nn.Module):
    """One cell called twice, with another layer in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cell, self.between = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.act, self.head = nn.Tanh(), nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.cell(self.act(self.stem(x))))
        return self.head(self.act(self.cell(self.act(self.between(x)))))


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, CLASSES))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Dropout(0.3),
        nn.Conv2d(3, 2, 2, stride=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(8, CLASSES),
    )


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "chain": (chain, (4,)),
    "residual": (Residual, (4,)),
    "shared": (Shared, (4,)),
    "conv, norm, dropout": (conv, (2, 4, 4)),
}


def make(name: str, batch: int = 4, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    """Network, inputs and labels."""
    torch.manual_seed(seed)
    build, shape = NETS[name]
    net = build().double()
    return net, torch.randn(batch, *shape, dtype=torch.float64), torch.randint(CLASSES, (batch,))
