"""The two networks of the page on scaling: ResNet-18, and a transformer of the shape of GPT-2; narrow ones to run."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm2(self.second(self.norm1(self.first(x)).relu()))
        return (h + self.shortcut(x)).relu()


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def resnet18(width: int = 64, classes: int = 1000) -> nn.Module:
    """He et al., arXiv 1512.03385."""
    widths = [width, width, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width, 8 * width]
    strides = [1, 1, 2, 1, 2, 1, 2, 1]
    blocks = [Residual(a, b, s) for a, b, s in zip(widths, widths[1:], strides, strict=False)]
    stem = nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, classes))


class Layer(nn.Module):
    """Causal attention and a feed-forward block, each behind a norm and beside a skip."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.mix, self.out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.mix(self.norm1(x)).chunk(3, -1))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Of the shape of GPT-2; the read-out is tied to the embedding."""

    def __init__(
        self, width: int = 768, layers: int = 12, heads: int = 12, tokens: int = 50257, length: int = 1024
    ) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(tokens, width), nn.Parameter(torch.zeros(length, width))
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.norm, self.read = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)
        self.read.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, length, tokens) of tokens (B, length)."""
        return self.read(self.norm(self.layers(self.embed(x) + self.positions)))


def narrow(name: str) -> nn.Module:
    """A network that runs on a small machine."""
    return resnet18(8, 10) if name == "resnet" else Transformer(64, 2, 2, 128, 32)


def loss_of(name: str, model: nn.Module, draws: torch.Generator) -> Tensor:
    """The loss of a narrow network on a batch of noise, of which nothing can be learned: only time counts."""
    if name == "resnet":
        x, y = torch.randn(16, 3, 32, 32, generator=draws), torch.randint(10, (16,), generator=draws)
        return F.cross_entropy(model(x), y)
    x = torch.randint(128, (8, 33), generator=draws)
    return F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
