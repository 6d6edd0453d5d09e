"""A linear layer on jets: the components share the weight, and the value alone meets the bias."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ocnopt.core.protocols import Params
from ocnopt.core.trajectory import Call
from ocnopt.pde.layers import at_value

from .linear import LinearPlayer


class JetLinearPlayer(LinearPlayer):
    """The components of a jet z (B, J, n_in) are positions whose ones column is 1 at the value and 0 elsewhere."""

    any_batch_dim = False
    merges = False

    def tangent(self, call: Call, d: Params) -> Tensor:
        given, z = self.by_name(d), self.z(call)
        constant = at_value(given["bias"], z) if "bias" in given else None
        if "weight" not in given:
            return constant.expand(self.shape(call))  # type: ignore[union-attr]
        out = F.linear(z, given["weight"])
        return out if constant is None else out + constant

    def pull(self, call: Call, u: Tensor) -> Params:
        u, z = u.to(self.dtype), self.z(call)
        pulled = {"weight": lambda: u.flatten(0, 1).T @ z.flatten(0, 1), "bias": lambda: u[:, 0].sum(0)}
        return tuple(pulled[name]() for name in self.names)

    def met_by_bias(self, u: Tensor) -> Tensor:
        return u[..., 0, :]

    def _ones(self, call: Call) -> Tensor:
        ones = super()._ones(call)
        ones[:, :, 1:] = 0
        return ones
