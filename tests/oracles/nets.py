"""Small float64 networks, losses and data, each with its layers in the order of their first call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES = 3


@dataclass
class Task:
    """A network, its layers in forward order, and a batch."""

    net: nn.Module
    layers: list[nn.Module]
    x: Tensor
    y: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]

    def evaluate(self) -> tuple[Tensor, Tensor]:
        """(loss, output), attached to their graph."""
        output = self.net(self.x)
        return self.loss(output, self.y), output


class Residual(nn.Module):
    """A stem, two residual blocks, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.first(x.tanh()).tanh()
        x = x + self.second(x).tanh()
        return self.head(x)


class Shared(nn.Module):
    """One layer is called twice, with another in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.cell, self.between = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, 5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cell(self.stem(x).tanh()).tanh()
        return self.head(self.cell(self.between(x).tanh()).tanh())


class Mixed(nn.Module):
    """Grouped convolution, two norms, a linear layer at every position, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.group = nn.Conv1d(4, 6, 3, padding=1, groups=2), nn.GroupNorm(2, 6)
        self.linear, self.norm = nn.Linear(6, 4, bias=False), nn.LayerNorm(4)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.group(self.conv(x)).tanh()
        return self.head(self.norm(self.linear(x.transpose(1, 2)).tanh()).mean(1))


class Tokens(nn.Module):
    """Embedded tokens, a linear layer and a norm at every position, batch statistics over all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear, self.norm = nn.Embedding(6, 4), nn.Linear(4, 4), nn.LayerNorm(4)
        self.batch, self.head = nn.BatchNorm1d(4), nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.linear(self.embed(x)).tanh())
        return self.head(self.batch(x.transpose(1, 2)).tanh().mean(2))


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, CLASSES))


def conv() -> nn.Module:
    first, second = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(3, 3, 2, stride=2)
    return nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), nn.Flatten(), nn.Linear(12, CLASSES))


def deep_linear() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, CLASSES))


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "chain": (chain, (4,)),
    "conv": (conv, (2, 4, 4)),
    "residual": (Residual, (4,)),
    "shared": (Shared, (4,)),
    "mixed": (Mixed, (4, 5)),
    "deep linear": (deep_linear, (4,)),
    "tokens": (Tokens, (5,)),
}
"""Builder and shape of one input."""

EXACT = ("chain", "conv", "residual", "shared", "mixed")
"""Those that do not mix samples."""

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": F.cross_entropy,
    "mse": F.mse_loss,
    "bce": F.binary_cross_entropy_with_logits,
}


def make(name: str, loss: str = "cross-entropy", batch: int = 4, seed: int = 0) -> Task:
    """The named network with a random batch for the named loss."""
    torch.manual_seed(seed)
    build, shape = NETS[name]
    net = build().double()
    x = torch.randint(6, (batch, *shape)) if name == "tokens" else torch.randn(batch, *shape, dtype=torch.float64)
    layers = [module for module in net.modules() if list(module.parameters(recurse=False))]
    return Task(net, layers, x, targets(loss, batch), LOSSES[loss])


def targets(loss: str, batch: int) -> Tensor:
    if loss == "cross-entropy":
        return torch.randint(CLASSES, (batch,))
    drawn = torch.rand(batch, CLASSES, dtype=torch.float64)
    return 3 * drawn - 1 if loss == "mse" else drawn
