"""Networks with the blocks of the literature, as small as they can be, built as their authors' code builds them."""

from __future__ import annotations

import random
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(n: int, m: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n, m, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """torchvision's, name for name."""

    def __init__(self, n: int, m: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(n, m, 3, stride), nn.BatchNorm2d(m)
        self.relu = nn.ReLU(inplace=True)
        self.conv2, self.bn2 = conv(m, m), nn.BatchNorm2d(m)
        self.downsample = None
        if stride > 1 or n != m:
            self.downsample = nn.Sequential(conv(n, m, 1, stride), nn.BatchNorm2d(m))

    def forward(self, x: Tensor) -> Tensor:
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


class ResNet18(nn.Module):
    """torchvision's ResNet-18 with narrow layers."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = conv(3, width, 7, 2), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        for j, (n, m) in enumerate(pairwise(widths), start=1):
            stage = nn.Sequential(BasicBlock(n, m, 1 if j == 1 else 2), BasicBlock(m, m, 1))
            self.add_module(f"layer{j}", stage)
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(widths[-1], 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class DecidingResNet18(ResNet18):
    """The same network with a decision that depends on values."""

    def forward(self, x: Tensor) -> Tensor:
        if x.abs().max() == 0:
            return x.new_zeros(len(x), 10)
        return super().forward(x)


class ConvReLU(nn.Sequential):
    def __init__(self, n: int, m: int, size: int, stride: int = 1) -> None:
        super().__init__(conv(n, m, size, stride), nn.BatchNorm2d(m), nn.ReLU(inplace=True))


class Inception(nn.Module):
    """GoogLeNet's module: 1x1, 1x1 and 3x3, 1x1 and 5x5, max-pool and 1x1."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.branch1 = ConvReLU(n, m, 1)
        self.branch2 = nn.Sequential(ConvReLU(n, m, 1), ConvReLU(m, m, 3))
        self.branch3 = nn.Sequential(ConvReLU(n, m, 1), ConvReLU(m, m, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, 1, padding=1), ConvReLU(n, m, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], 1)


class GoogLeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvReLU(3, 4, 3, 2)
        self.inception3a, self.inception3b = Inception(4, 2), Inception(8, 3)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.inception3b(self.inception3a(self.stem(x))).mean((2, 3)))


class PreactBlock(nn.Module):
    """The shortcut is taken behind the first norm and activation where the shape changes."""

    def __init__(self, n: int, m: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(n), conv(n, m, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(m), conv(m, m)
        if stride != 1 or n != m:
            self.shortcut = nn.Sequential(conv(n, m, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + shortcut


class PreactResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 4)
        self.blocks = nn.Sequential(PreactBlock(4, 4, 1), PreactBlock(4, 8, 2), PreactBlock(8, 8, 1))
        self.norm, self.head = nn.BatchNorm2d(8), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.blocks(self.stem(x)))).mean((2, 3)))


class Attention(nn.Module):
    """Separate projections; fused: torch's own kernel, or else the two products written out."""

    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        if self.fused:
            mixed = F.scaled_dot_product_attention(q, k, v)
        else:
            mixed = torch.softmax(q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5, dim=-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(x.shape))


class ParallelBlock(nn.Module):
    """x + attention + MLP of the same norm, as in GPT-J."""

    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        self.norm, self.attn = nn.LayerNorm(width), Attention(width, 2, fused)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return x + self.attn(normed) + self.mlp(normed)


class SerialBlock(nn.Module):
    """Attention, then a gated MLP, each with its own shortcut, as in Llama."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2 = nn.LayerNorm(width), Attention(width, 2, True), nn.LayerNorm(width)
        self.gate, self.up, self.down = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        normed = self.norm2(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Transformer(nn.Module):
    """Over tokens; the position is a raw parameter of the network itself."""

    def __init__(self, width: int = 8, length: int = 5) -> None:
        super().__init__()
        self.embed, self.position = nn.Embedding(11, width), nn.Parameter(torch.zeros(length, width))
        self.blocks = nn.ModuleList([ParallelBlock(width, True), ParallelBlock(width, False), SerialBlock(width)])
        self.head = nn.Linear(width, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Conditioned(nn.Module):
    """A residual block that also hears the time, as in diffusion networks: nothing dominates its branches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.time, self.conv2, self.short = conv(3, 4), nn.Linear(1, 4), conv(4, 4), conv(3, 4, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        h = self.conv1(x) + self.time(t)[:, :, None, None]
        return self.conv2(F.relu(h)) + self.short(x)


class InceptionResidual(nn.Module):
    """A concatenation inside a residual branch; the shortcut is a layer; the stem runs twice; sums meet in sums."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv(3, 3), conv(3, 2, 1), nn.Sequential(conv(3, 2, 1), conv(2, 2))
        self.merge, self.after, self.short = conv(4, 4, 1), conv(4, 4), conv(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.stem(x))
        merged = self.merge(torch.cat((self.a(x), self.b(x)), 1))
        out = self.after(merged)
        out.add_(self.short(x))
        return out.relu()


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return (self.a(x) + self.b(x)).detach()


class ThroughNumpy(Detached):
    """Neither way can follow: the second pair of layers gets a tensor without a past, and numpy refuses gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy((self.a(x) + self.b(x)).numpy())


class Stateful(nn.Module):
    """Changes whatever a forward pass can change: buffers, random numbers, attributes, a weight."""

    def __init__(self, decides: bool) -> None:
        super().__init__()
        self.decides, self.calls, self.last = decides, 0, None
        self.embed = nn.Embedding(7, 4, max_norm=0.1)
        self.norm, self.drop = nn.BatchNorm1d(4), nn.Dropout(0.5)
        self.a, self.b, self.frozen = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4).eval()
        self.frozen.requires_grad_(False)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, tokens: Tensor) -> Tensor:
        if self.decides and tokens.sum() < 0:
            return tokens
        self.calls += random.randint(1, 9)
        self.last = self.norm(self.frozen(self.embed(tokens)))
        self.seen += 1
        self.seen = self.seen + torch.rand(())
        return self.drop(self.a(self.last)) + self.b(self.last)
