"""Networks composed at random of the layers that have a player of their own or the general one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Choose = Callable[[Sequence[Any]], Any]
"""Picks one of a few: ``random.Random.choice``, or a strategy of hypothesis, which shrinks towards the first."""

CLASSES = 3


class Skip(nn.Module):
    """x + inside(x)."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inside(x)


class Attend(nn.Module):
    """Self-attention over the positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


class Recur(nn.Module):
    """A GRU over the positions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.cell = nn.GRU(width, width, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]


class Average(nn.Module):
    """The mean over the positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


@dataclass(frozen=True)
class Family:
    """Networks on one kind of input.

    draw: inputs of so many samples.  enter, leave: the first and last parts, of a width.
    parts: what may stand between them, each keeping the shape.
    """

    draw: Callable[[int, torch.Generator], Tensor]
    enter: Callable[[int, Choose], nn.Module]
    parts: tuple[Callable[[int, Choose], nn.Module], ...]
    leave: Callable[[int], nn.Module]


def activation(width: int, choose: Choose) -> nn.Module:
    return choose((nn.Tanh, nn.GELU, nn.Sigmoid, nn.ReLU))()


def linear(width: int, choose: Choose) -> nn.Module:
    return nn.Linear(width, width, bias=choose((True, False)))


def norm(width: int, choose: Choose) -> nn.Module:
    return choose((nn.LayerNorm, nn.RMSNorm))(width)


def feed(width: int, choose: Choose) -> nn.Module:
    return Skip(nn.Sequential(linear(width, choose), activation(width, choose), linear(width, choose)))


def convolution(width: int, choose: Choose) -> nn.Module:
    groups, bias = choose((1, width)), choose((True, False))
    return nn.Conv2d(width, width, choose((3, 1)), padding="same", groups=groups, bias=bias)


def image_norm(width: int, choose: Choose) -> nn.Module:
    return choose((nn.BatchNorm2d(width), nn.GroupNorm(2, width)))


def transposed(width: int, choose: Choose) -> nn.Module:
    return nn.ConvTranspose2d(width, width, 3, padding=1, bias=choose((True, False)))


def signal(width: int, choose: Choose) -> nn.Module:
    return Skip(nn.Sequential(image_norm(width, choose), activation(width, choose), convolution(width, choose)))


FAMILIES: dict[str, Family] = {
    "features": Family(
        lambda size, generator: torch.randn(size, 5, generator=generator),
        lambda width, choose: nn.Linear(5, width),
        (linear, activation, norm, feed, lambda width, choose: nn.BatchNorm1d(width)),
        lambda width: nn.Linear(width, CLASSES),
    ),
    "images": Family(
        lambda size, generator: torch.randn(size, 2, 5, 5, generator=generator),
        lambda width, choose: nn.Conv2d(2, width, 3, stride=choose((1, 2)), padding=1),
        (convolution, activation, image_norm, transposed, signal),
        lambda width: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, CLASSES)),
    ),
    "sequences": Family(
        lambda size, generator: torch.randint(7, (size, 4), generator=generator),
        lambda width, choose: nn.Embedding(7, width),
        (feed, norm, activation, lambda width, choose: Attend(width), lambda width, choose: Recur(width)),
        lambda width: nn.Sequential(Average(), nn.Linear(width, CLASSES)),
    ),
}


def compose(family: Family, choose: Choose) -> nn.Sequential:
    """A network of up to four parts between the first and the last."""
    width = choose((4, 6))
    parts = [choose(family.parts)(width, choose) for _ in range(choose((1, 0, 2, 3, 4)))]
    return nn.Sequential(family.enter(width, choose), *parts, family.leave(width))


def labels(x: Tensor) -> Tensor:
    """Classes 0, 1, 2 that depend on the inputs (B, ...)."""
    flat = x.float().flatten(1)
    return (flat.sum(1) > flat.sum(1).median()).long() + (flat[:, 0] > flat[:, 0].median()).long()
