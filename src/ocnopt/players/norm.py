"""Normalisations: h = ẑ ∘ w + b, where ẑ does not depend on the parameters, so that f_θ is diagonal."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ocnopt.core.protocols import Params
from ocnopt.core.trajectory import Call, narrowed

from .base import ModulePlayer


class _ScalePlayer(ModulePlayer):
    """h = ẑ ∘ w + b for parameters that span some dimensions of ẑ and are shared over the others.

    Batch statistics may mix samples in ẑ; f_θ itself never does, so every sample's product is exact.
    """

    is_diagonal: ClassVar[bool] = True

    def standardised(self, call: Call) -> Tensor:
        """ẑ, shaped like the output."""
        raise NotImplementedError

    def shared(self, ndim: int) -> tuple[int, ...]:
        """Dimensions of an output of ``ndim`` dimensions over which the parameters are shared, the batch first."""
        raise NotImplementedError

    def tangent(self, call: Call, d: Params) -> Tensor:
        given = {name: self._spread(tensor, len(call.sizes[0])) for name, tensor in self.by_name(d).items()}
        if "weight" not in given:
            return given["bias"].expand(self.shape(call))
        h = self.standardised(call) * given["weight"]
        return h + given["bias"] if "bias" in given else h

    def pull(self, call: Call, u: Tensor) -> Params:
        return tuple(product.sum(self.shared(u.ndim)) for product in self._products(call, u))

    def sample_pull(self, call: Call, U: Tensor) -> Params:
        within = [axis + 1 for axis in self.shared(U.ndim - 1)[1:]]
        return tuple(product.sum(within) if within else product for product in self._products(call, U))

    def _products(self, call: Call, U: Tensor) -> Params:
        """u ∘ ẑ for the weight, u for the bias, (..., B, ...)."""
        U = U.to(self.dtype)
        return tuple(U * self.standardised(call) if name == "weight" else U for name in self.names)

    def _spread(self, parameter: Tensor, ndim: int) -> Tensor:
        """(*parameter) with a one in every shared dimension, ready to broadcast."""
        for axis in self.shared(ndim):
            parameter = parameter.unsqueeze(axis)
        return parameter


class _FeaturePlayer(_ScalePlayer):
    """Parameters span the last dimensions, ``normalized_shape``."""

    any_batch_dim = True
    merges = True

    def shared(self, ndim: int) -> tuple[int, ...]:
        return tuple(range(ndim - len(self.module.normalized_shape)))


class LayerNormPlayer(_FeaturePlayer):
    def standardised(self, call: Call) -> Tensor:
        return F.layer_norm(self.z(call), self.module.normalized_shape, eps=self.module.eps)


class RMSNormPlayer(_FeaturePlayer):
    knows = ("weight",)

    def standardised(self, call: Call) -> Tensor:
        return F.rms_norm(self.z(call), self.module.normalized_shape, eps=self.module.eps)


class _ChannelPlayer(_ScalePlayer):
    """Parameters span dimension 1."""

    def shared(self, ndim: int) -> tuple[int, ...]:
        return (0, *range(2, ndim))


class GroupNormPlayer(_ChannelPlayer):
    def standardised(self, call: Call) -> Tensor:
        return F.group_norm(self.z(call), self.module.num_groups, eps=self.module.eps)


class BatchNormPlayer(_ChannelPlayer):
    """Batch statistics in training or where none are tracked, running ones otherwise; buffers are only read."""

    whole = True

    def head(self, call: Call, m: int) -> Call:
        """The first m samples, and the statistics of all: nothing else of the others is in ẑ."""
        part = narrowed(call, m)
        part.memo["statistics"] = self.statistics(call)
        return part

    def standardised(self, call: Call) -> Tensor:
        return F.batch_norm(self.z(call), *self.statistics(call), training=False, eps=self.module.eps)

    def statistics(self, call: Call) -> tuple[Tensor, Tensor]:
        """Mean and variance of every channel, (c,) each; read off a call once."""
        if "statistics" not in call.memo:
            call.memo["statistics"] = self._statistics(self.z(call))
        return call.memo["statistics"]

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.module
        if norm.training or norm.running_mean is None:
            var, mean = torch.var_mean(z, self.shared(z.ndim), correction=0)
            return mean, var
        return norm.running_mean.to(z.dtype), norm.running_var.to(z.dtype)
