"""Networks whose layers meet in blocks: residual and inception networks."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from torch import Tensor, nn

from ocnopt_lab.problems.networks import Factory, Shape, image_shape


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, the first with a stride, beside a shortcut: the input as it is where its shape stays, one
    strided 1x1 convolution elsewhere."""

    def __init__(self, fan_in: int, width: int, stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(fan_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or fan_in != width:
            shortcut = nn.Conv2d(fan_in, width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + self.downsample(x))


class Inception(nn.Module):
    """Four branches: 1x1; 1x1 and 3x3; 1x1 and 5x5; 3x3 max-pool and 1x1. Each ends in `width` channels."""

    def __init__(self, fan_in: int, width: int) -> None:
        super().__init__()
        self.branch1 = convolution(fan_in, width, 1)
        self.branch2 = nn.Sequential(*convolution(fan_in, width, 1), *convolution(width, width, 3))
        self.branch3 = nn.Sequential(*convolution(fan_in, width // 2, 1), *convolution(width // 2, width, 5))
        self.branch4 = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), *convolution(fan_in, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch2(x), self.branch3(x), self.branch4(x)], dim=1)


def residual(stem: int, widths: tuple[int, ...]) -> Factory:
    """A 3x3 stem of `stem` channels, a block for each of `widths`, global average pool, one dense layer."""

    def build(in_shape: Shape, outputs: int) -> nn.Module:
        channels, _, _ = image_shape(in_shape, 2)
        parts = OrderedDict[str, nn.Module](stem=convolution(channels, stem, 3))
        for j, (fan_in, width) in enumerate(pairwise((stem, *widths)), start=1):
            parts[f"block{j}"] = BasicBlock(fan_in, width)
        return nn.Sequential(parts | {"head": head(widths[-1], outputs)})

    return build


def resnet18(in_shape: Shape, outputs: int) -> nn.Module:
    """The network of He et al. (2016) with the stem for small images: one 3x3 convolution, no pool."""
    channels, _, _ = image_shape(in_shape, 8)
    parts = OrderedDict[str, nn.Module](stem=convolution(channels, 64, 3))
    for j, (fan_in, width) in enumerate(pairwise((64, 64, 128, 256, 512)), start=1):
        first = BasicBlock(fan_in, width, stride=1 if j == 1 else 2)
        parts[f"layer{j}"] = nn.Sequential(first, BasicBlock(width, width, stride=1))
    return nn.Sequential(parts | {"head": head(512, outputs)})


def inception(stem: int, widths: tuple[int, ...]) -> Factory:
    """A 3x3 stem of stride 2 with `stem` channels, then for each of `widths` a module with four times as many channels,
    2x2 max-pools between the modules, global average pool, one dense layer."""

    def build(in_shape: Shape, outputs: int) -> nn.Module:
        channels, _, _ = image_shape(in_shape, 2 ** len(widths))
        fans = (stem, *(4 * width for width in widths))
        parts = OrderedDict[str, nn.Module](stem=convolution(channels, stem, 3, stride=2))
        for j, (fan_in, width) in enumerate(zip(fans, widths, strict=False), start=1):
            if j > 1:
                parts[f"pool{j}"] = nn.MaxPool2d(2)
            parts[f"inception{j}"] = Inception(fan_in, width)
        return nn.Sequential(parts | {"head": head(fans[-1], outputs)})

    return build


def convolution(fan_in: int, width: int, size: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(fan_in, width, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def head(width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs))
