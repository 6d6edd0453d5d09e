"""nn.Linear: h = z Wᵀ + b at every position."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ocnopt.core.protocols import Params
from ocnopt.core.trajectory import Call

from .base import MatrixModulePlayer


class LinearPlayer(MatrixModulePlayer):
    """Every dimension between the batch and the features is a position: z is (B, ..., n_in)."""

    any_batch_dim = True
    merges = True
    dims = 2

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """Stacks of weights, as other packages have them, are not one matrix."""
        return len(module.get_parameter("weight").shape) == 2

    def tangent(self, call: Call, d: Params) -> Tensor:
        given = self.by_name(d)
        if "weight" not in given:
            return given["bias"].expand(self.shape(call))
        return F.linear(self.z(call), given["weight"], given.get("bias"))

    def pull(self, call: Call, u: Tensor) -> Params:
        u = u.to(self.dtype).flatten(0, -2)
        return tuple(u.T @ self.z(call).flatten(0, -2) if name == "weight" else u.sum(0) for name in self.names)

    def sample_pull(self, call: Call, U: Tensor) -> Params:
        """As the base, each parameter by itself: side by side they would be copied apart in every product."""
        u, z = self.outputs(call, U).squeeze(1), self.patches(call).squeeze(0)
        return tuple(u.mT @ z if name == "weight" else self.met_by_bias(u) for name in self.names)

    def met_by_bias(self, u: Tensor) -> Tensor:
        """Σ_p u_p over the positions where the bias enters, of rows (..., P, n_out)."""
        return u.sum(-2)

    def patches(self, call: Call) -> Tensor:
        return self.z(call).unsqueeze(1).flatten(1, -2).unsqueeze(0)

    def outputs(self, call: Call, U: Tensor) -> Tensor:
        return U.to(self.dtype).unsqueeze(2).flatten(2, -2).unsqueeze(1)


class TransposedLinearPlayer(LinearPlayer):
    """h = z W + b, as transformers' Conv1D has it, of which GPT-2 is made: W is (n_in, n_out)."""

    @property
    def width(self) -> int:
        return self.parameters[0].shape[-1]

    def tangent(self, call: Call, d: Params) -> Tensor:
        return super().tangent(call, self.turned(d))

    def pull(self, call: Call, u: Tensor) -> Params:
        return self.turned(super().pull(call, u))

    def sample_pull(self, call: Call, U: Tensor) -> Params:
        return self.turned(super().sample_pull(call, U))

    def turned(self, d: Params) -> Params:
        """Parameter-shaped tensors with the weight the other way round."""
        return tuple(x.mT if name == "weight" else x for name, x in zip(self.names, d, strict=True))

    def _columns(self, name: str, tensor: Tensor) -> Tensor:
        return (tensor.mT if name == "weight" else tensor.unsqueeze(-1)).unsqueeze(-3)

    def from_matrix(self, D: Tensor) -> Params:
        D, width = D.squeeze(-3), D.shape[-1] - ("bias" in self.names)
        return tuple(D[..., :width].mT if name == "weight" else D[..., -1] for name in self.names)
