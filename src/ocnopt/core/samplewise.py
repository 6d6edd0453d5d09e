"""Modules without parameters whose output for a sample is made of that sample's input alone, and of nothing random."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from .hooks import Hook

KINDS = frozenset(
    {
        *(nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh),
        *(nn.Sigmoid, nn.LogSigmoid, nn.Softplus, nn.Softsign, nn.Tanhshrink, nn.Hardshrink, nn.Softshrink),
        *(nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.Threshold),
        *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    }
)


def is_samplewise(module: nn.Module) -> bool:
    """Whether it is one, by its type itself: a subclass may do anything. Samples lie along dimension 0."""
    if "forward" in vars(module):
        return False
    return type(module) in KINDS or (type(module) is nn.Flatten and module.start_dim > 0)


def is_chain_of(parts: Callable[[nn.Module], bool], module: nn.Module) -> bool:
    """Whether the module is such a part, or nothing but a sequence of them; hooks of others may do anything."""
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    if not all(isinstance(hook, Hook) for hook in hooks):
        return False
    if type(module) is nn.Sequential and "forward" not in vars(module):
        return all(is_chain_of(parts, child) for child in module)
    return parts(module)
