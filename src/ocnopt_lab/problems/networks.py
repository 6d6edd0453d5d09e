"""Fully connected and convolutional networks, built for a given input shape and number of outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import Protocol, runtime_checkable

from torch import nn

from ocnopt_lab.errors import LabError

Shape = tuple[int, ...]
Factory = Callable[[Shape, int], nn.Module]


@runtime_checkable
class Sized(Protocol):
    """A factory of networks that are also built wider or deeper."""

    def __call__(self, in_shape: Shape, outputs: int) -> nn.Module: ...

    def sized(self, width: float, depth: int) -> Sized:
        """With `width` times as many units or channels, and `depth` times as many hidden layers."""
        ...


def times(units: int, factor: float) -> int:
    """At least one."""
    return max(1, round(units * factor))


@dataclass(frozen=True)
class FullyConnected:
    """`layers` linear layers with an activation between them, `hidden` units wide."""

    hidden: int
    layers: int = 5
    activation: type[nn.Module] = nn.Tanh

    def __call__(self, in_shape: Shape, outputs: int) -> nn.Module:
        widths = [prod(in_shape), *[self.hidden] * (self.layers - 1), outputs]
        return nn.Sequential(nn.Flatten(), *_dense(widths, self.activation))

    def sized(self, width: float, depth: int) -> FullyConnected:
        return replace(self, hidden=times(self.hidden, width), layers=1 + depth * (self.layers - 1))


def autoencoder(widths: tuple[int, ...], activation: type[nn.Module]) -> Factory:
    """Dense layers through `widths` to the last of them, the code, and back in mirror image; code and output linear."""

    def build(in_shape: Shape, outputs: int) -> nn.Module:
        encoder = [prod(in_shape), *widths]
        decoder = [*reversed(widths), outputs]
        return nn.Sequential(nn.Flatten(), *_dense(encoder, activation), *_dense(decoder, activation))

    return build


def sparsely(build: Factory, connections: int = 15) -> Factory:
    """With the initial weights of Martens (2010): N(0, 1) for so many inputs of every unit, zero for the rest."""

    def built(in_shape: Shape, outputs: int) -> nn.Module:
        network = build(in_shape, outputs)
        for layer in (module for module in network.modules() if isinstance(module, nn.Linear)):
            nn.init.sparse_(layer.weight.mT, sparsity=max(0.0, 1 - connections / layer.in_features), std=1.0)
            nn.init.zeros_(layer.bias)
        return network

    return built


def _dense(widths: Sequence[int], activation: type[nn.Module]) -> list[nn.Module]:
    """Linear layers with activations between them and none at the end."""
    pairs = [(nn.Linear(fan_in, fan_out), activation()) for fan_in, fan_out in pairwise(widths)]
    return [module for pair in pairs for module in pair][:-1]


@dataclass(frozen=True)
class Convolutional:
    """3x3 convolutions with ReLU, a 2x2 max-pool after those where `pools` says so, two dense layers."""

    pools: tuple[bool, ...]
    dense: int
    channels: int = 32

    def __call__(self, in_shape: Shape, outputs: int) -> nn.Module:
        channels, height, width = image_shape(in_shape, 2 ** sum(self.pools))
        modules: list[nn.Module] = []
        for pool in self.pools:
            modules += [nn.Conv2d(channels, self.channels, 3, padding=1), nn.ReLU()]
            channels = self.channels
            if pool:
                modules.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        head = [nn.Linear(channels * height * width, self.dense), nn.ReLU(), nn.Linear(self.dense, outputs)]
        return nn.Sequential(*modules, nn.Flatten(), *head)

    def sized(self, width: float, depth: int) -> Convolutional:
        """The further convolutions stand before the pools; there are two dense layers at any depth."""
        pools = tuple(last for pool in self.pools for last in (*[False] * (depth - 1), pool))
        return Convolutional(pools, times(self.dense, width), times(self.channels, width))


def image_shape(in_shape: Shape, smallest: int) -> tuple[int, int, int]:
    if len(in_shape) != 3:
        raise LabError(f"A convolutional network needs images; one sample has shape {in_shape}: choose an fcn problem.")
    channels, height, width = in_shape
    if min(height, width) < smallest:
        raise LabError(f"This convolutional network needs at least {smallest}x{smallest} pixels, not {height}x{width}.")
    return channels, height, width
