"""Convolutions of one, two or three dimensions, and their transposes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ocnopt.core.protocols import Params
from ocnopt.core.trajectory import Call

from .base import MatrixModulePlayer, ModulePlayer

Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], bool, tuple[int, ...], int]
"""stride, padding, dilation, transposed, output_padding, groups: what torch.convolution wants after the bias."""


def margins(conv: Any) -> list[tuple[int, int]]:
    """Padding before and after in every spatial dimension; 'same' puts the odd one after, as torch does."""
    if conv.padding == "valid":
        return [(0, 0)] * len(conv.kernel_size)
    if conv.padding == "same":
        spans = [reach * (k - 1) for reach, k in zip(conv.dilation, conv.kernel_size, strict=True)]
        return [(span // 2, span - span // 2) for span in spans]
    return [(p, p) for p in conv.padding]


def padded(z: Tensor, pads: list[tuple[int, int]], mode: str) -> Tensor:
    """z (B, c, *space) with explicit margins; F.pad counts dimensions from the last."""
    flat = [p for pair in reversed(pads) for p in pair]
    return F.pad(z, flat, mode="constant" if mode == "zeros" else mode) if any(flat) else z


def windows(x: Tensor, conv: Any) -> Tensor:
    """im2col of an already padded x (B, c, *space), grouped: (g, B, P, (c / g)·Πk), a view until the last line."""
    n = len(conv.kernel_size)
    for i, (k, step, reach) in enumerate(zip(conv.kernel_size, conv.stride, conv.dilation, strict=True)):
        x = x.unfold(2 + i, reach * (k - 1) + 1, step)[..., ::reach]
    x = x.unflatten(1, (conv.groups, -1))  # (B, g, c/g, *out, *k)
    out, kernel = range(3, 3 + n), range(3 + n, 3 + 2 * n)
    return x.permute(1, 0, *out, 2, *kernel).flatten(2, 1 + n).flatten(3)


def channel_rows(U: Tensor, groups: int) -> Tensor:
    """(r, B, c, *space) to rows (r, g, B, P, c / g)."""
    return U.flatten(3).unflatten(2, (groups, -1)).permute(0, 2, 1, 4, 3)


class _ConvolutionPlayer(ModulePlayer):
    """tangent and pulls by the library's own kernels: the forward convolution and its weight gradient."""

    def framed(self, call: Call) -> Tensor:
        """The input as the convolution kernel meets it, with such margins as the kernel cannot add itself."""
        return self.z(call)

    def geometry(self, call: Call) -> Geometry:
        raise NotImplementedError

    def tangent(self, call: Call, d: Params) -> Tensor:
        given = self.by_name(d)
        if "weight" not in given:
            return given["bias"].view(-1, *[1] * len(self.module.kernel_size)).expand(self.shape(call))
        return torch.convolution(self.framed(call), given["weight"], given.get("bias"), *self.geometry(call))

    def pull(self, call: Call, u: Tensor) -> Params:
        u = u.to(self.dtype)
        if "weight" not in self.names:
            return (u.transpose(0, 1).flatten(1).sum(1),)
        grads = self._backward(call, u)
        return tuple(grads[name] for name in self.names)

    def _backward(self, call: Call, u: Tensor) -> dict[str, Tensor]:
        weight, bias = self.module.weight.detach().to(self.dtype), "bias" in self.names
        _, dW, db = torch.ops.aten.convolution_backward(
            u, self.framed(call), weight, [u.shape[1]], *self.geometry(call), [False, True, bias]
        )
        return {"weight": dW, "bias": db}

    def sample_pull(self, call: Call, U: Tensor) -> Params:
        U = U.to(self.dtype)
        return tuple(self._sample_weight(call, U) if n == "weight" else U.flatten(3).sum(3) for n in self.names)

    def _sample_weight(self, call: Call, U: Tensor) -> Tensor:
        """Weight gradients of one convolution in which every sample is a group of its own: no patches are formed."""
        z, weight, (*geometry, groups) = self.framed(call), self.module.weight, self.geometry(call)
        aside = z.new_empty(len(z) * weight.shape[0], *weight.shape[1:]), None, *geometry, len(z) * groups
        rows, mask = z.reshape(1, -1, *z.shape[2:]), [False, True, False]
        grads = (torch.ops.aten.convolution_backward(u[None].flatten(1, 2), rows, *aside, mask)[1] for u in U)
        return torch.stack([dW.view(len(z), *weight.shape) for dW in grads])


class ConvPlayer(_ConvolutionPlayer, MatrixModulePlayer):
    """nn.Conv1d, 2d, 3d: a linear layer on patches. Patches are formed only where rows are asked for."""

    @property
    def groups(self) -> int:
        return self.module.groups

    def _kernel_pads(self) -> bool:
        """The kernel itself adds zeros, equally many on both sides; everything else is padded beforehand."""
        return self.module.padding_mode == "zeros" and all(left == right for left, right in margins(self.module))

    def framed(self, call: Call) -> Tensor:
        return self.z(call) if self._kernel_pads() else self.bordered(call)

    def bordered(self, call: Call) -> Tensor:
        return padded(self.z(call), margins(self.module), self.module.padding_mode)

    def geometry(self, call: Call) -> Geometry:
        conv, none = self.module, (0,) * len(self.module.kernel_size)
        padding = tuple(left for left, _ in margins(conv)) if self._kernel_pads() else none
        return conv.stride, padding, conv.dilation, False, none, conv.groups

    def patches(self, call: Call) -> Tensor:
        return windows(self.bordered(call), self.module)

    def outputs(self, call: Call, U: Tensor) -> Tensor:
        return channel_rows(U.to(self.dtype), self.groups)


class ConvTransposePlayer(_ConvolutionPlayer):
    """nn.ConvTranspose1d, 2d, 3d: a convolution run from output to input, weight (in, out / g, *k)."""

    def geometry(self, call: Call) -> Geometry:
        conv = self.module
        return conv.stride, conv.padding, conv.dilation, True, self._surplus(call), conv.groups

    def _surplus(self, call: Call) -> tuple[int, ...]:
        """output_padding read off the sizes: the caller of forward may have chosen it by output_size."""
        conv, space = self.module, self.received(call).shape[2:]
        least = [
            (n - 1) * step - 2 * pad + reach * (k - 1) + 1
            for n, step, pad, reach, k in zip(
                space, conv.stride, conv.padding, conv.dilation, conv.kernel_size, strict=True
            )
        ]
        return tuple(n - m for n, m in zip(call.sizes[0][2:], least, strict=True))
