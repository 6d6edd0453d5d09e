"""Small networks of the kinds that people train, with their input of a given step and their loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Problem(NamedTuple):
    """A network, its input of a given step, and the loss."""

    make: Callable[[], nn.Module]
    draw: Callable[[int], Tensor]
    loss: Callable[[nn.Module, Tensor], Tensor]


def classes(x: Tensor) -> Tensor:
    """Labels 0, 1, 2 of inputs (B, ...)."""
    flat = x.flatten(1)
    return (flat.sum(1) > 0).long() + (flat[:, 0] > 0).long()


def class_loss(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x), classes(x.float()))


def next_token_loss(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x).flatten(0, 1), x.roll(1, 1).flatten())


def normal(*shape: int) -> Callable[[int], Tensor]:
    return lambda step: torch.randn(*shape, generator=torch.Generator().manual_seed(step))


def sentences(step: int) -> Tensor:
    return torch.randint(0, 7, (6, 5), generator=torch.Generator().manual_seed(step))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def shallow() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def image_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


def signal_net() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.Flatten(), nn.Linear(24, 3))


class Attention(nn.Module):
    """Self-attention, averaged over the positions and read out."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.read = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.attention(x, x, x)[0].mean(1))


class Language(nn.Module):
    """Embedding, LayerNorm, a feed-forward block, and a read-out that is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm = nn.Embedding(7, 8), nn.LayerNorm(8)
        self.feed = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.read = nn.Linear(8, 7, bias=False)
        self.read.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x)
        return self.read(h + self.feed(self.norm(h)))


class Recurrent(nn.Module):
    """The last output of a recurrent layer, read out."""

    def __init__(self, kind: type[nn.GRU] | type[nn.LSTM]) -> None:
        super().__init__()
        self.cell, self.read = kind(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.cell(x)[0][:, -1])


PROBLEMS: dict[str, Problem] = {
    "mlp": Problem(mlp, normal(12, 4), class_loss),
    "dense": Problem(dense, normal(12, 4), class_loss),
    "shallow": Problem(shallow, normal(12, 4), class_loss),
    "batchnorm-cnn": Problem(image_net, normal(8, 1, 8, 8), class_loss),
    "conv1d": Problem(signal_net, normal(8, 2, 8), class_loss),
    "attention": Problem(Attention, normal(8, 5, 4), class_loss),
    "tied-language": Problem(Language, sentences, next_token_loss),
    "gru": Problem(lambda: Recurrent(nn.GRU), normal(8, 2, 4), class_loss),
    "lstm": Problem(lambda: Recurrent(nn.LSTM), normal(8, 2, 4), class_loss),
}


def built(problem: str = "mlp", dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network of a problem, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PROBLEMS[problem].make().to(dtype)
