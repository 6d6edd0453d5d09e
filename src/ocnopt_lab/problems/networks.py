"""Fully connected and convolutional networks, built for a given input shape and number of outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import prod

from torch import nn

from ocnopt_lab.errors import LabError

Shape = tuple[int, ...]
Factory = Callable[[Shape, int], nn.Module]

_CHANNELS = 32


def fully_connected(hidden: int, layers: int = 5, activation: type[nn.Module] = nn.Tanh) -> Factory:
    """`layers` linear layers with an activation between them, `hidden` units wide."""

    def build(in_shape: Shape, outputs: int) -> nn.Module:
        widths = [prod(in_shape), *[hidden] * (layers - 1), outputs]
        return nn.Sequential(nn.Flatten(), *_dense(widths, activation))

    return build


def autoencoder(widths: tuple[int, ...], activation: type[nn.Module]) -> Factory:
    """Dense layers through `widths` to the last of them, the code, and back in mirror image; code and output linear."""

    def build(in_shape: Shape, outputs: int) -> nn.Module:
        encoder = [prod(in_shape), *widths]
        decoder = [*reversed(widths), outputs]
        return nn.Sequential(nn.Flatten(), *_dense(encoder, activation), *_dense(decoder, activation))

    return build


def _dense(widths: Sequence[int], activation: type[nn.Module]) -> list[nn.Module]:
    """Linear layers with activations between them and none at the end."""
    pairs = [(nn.Linear(fan_in, fan_out), activation()) for fan_in, fan_out in pairwise(widths)]
    return [module for pair in pairs for module in pair][:-1]


def convolutional(pools: tuple[bool, ...], dense: int) -> Factory:
    """3x3 convolutions of 32 channels with ReLU, a 2x2 max-pool after those where `pools` says so, two dense layers."""

    def build(in_shape: Shape, outputs: int) -> nn.Module:
        channels, height, width = image_shape(in_shape, 2 ** sum(pools))
        modules: list[nn.Module] = []
        for pool in pools:
            modules += [nn.Conv2d(channels, _CHANNELS, 3, padding=1), nn.ReLU()]
            channels = _CHANNELS
            if pool:
                modules.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
        features = _CHANNELS * height * width
        return nn.Sequential(*modules, nn.Flatten(), nn.Linear(features, dense), nn.ReLU(), nn.Linear(dense, outputs))

    return build


def image_shape(in_shape: Shape, smallest: int) -> tuple[int, int, int]:
    if len(in_shape) != 3:
        raise LabError(f"A convolutional network needs images; one sample has shape {in_shape}: choose an fcn problem.")
    channels, height, width = in_shape
    if min(height, width) < smallest:
        raise LabError(f"This convolutional network needs at least {smallest}x{smallest} pixels, not {height}x{width}.")
    return channels, height, width
