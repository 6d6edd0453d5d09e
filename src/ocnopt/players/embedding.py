"""nn.Embedding: h = W[z], a linear layer on one-hot rows that are never formed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ocnopt.core.protocols import Params
from ocnopt.core.trajectory import Call

from .base import ModulePlayer


class EmbeddingPlayer(ModulePlayer):
    """z (B, ...) holds indices. The row at padding_idx is a constant: it is read, but never trained."""

    is_lookup = True
    knows = ("weight",)
    any_batch_dim = True
    merges = True

    def tangent(self, call: Call, d: Params) -> Tensor:
        z, (dW,) = self.received(call), d
        h = F.embedding(z, dW.to(self.dtype))
        return h if self._constant is None else h.masked_fill((z == self._constant).unsqueeze(-1), 0)

    def pull(self, call: Call, u: Tensor) -> Params:
        rows = self.module.num_embeddings
        constant = -1 if self._constant is None else self._constant
        return (torch.ops.aten.embedding_dense_backward(u.to(self.dtype), self.received(call), rows, constant, False),)

    def sample_pull(self, call: Call, U: Tensor) -> Params:
        """One scatter into (r, B·V, n): sample i owns the rows from i·V on."""
        z, (V, n) = self.received(call), self.module.weight.shape
        (r, B), U = U.shape[:2], U.to(self.dtype).flatten(1, -2)
        owned = z.reshape(B, -1) + V * torch.arange(B, device=z.device).unsqueeze(1)
        dW = U.new_zeros(r, B * V, n).index_add_(1, owned.flatten(), U).view(r, B, V, n)
        if self._constant is not None:
            dW[:, :, self._constant] = 0
        return (dW,)

    def reads(self, call: Call, U: Tensor) -> tuple[Tensor, Tensor]:
        """Rows read (B, P), and what each adds to f_θᵀ u, (r, B, P, n): U (r, B, ...), zero at the constant."""
        z = self.received(call).flatten(1) if self.received(call).dim() > 1 else self.received(call)[:, None]
        U = U.to(self.dtype).reshape(len(U), *z.shape, -1)
        return z, U if self._constant is None else U.masked_fill((z == self._constant)[..., None], 0)

    @property
    def _constant(self) -> int | None:
        return self.module.padding_idx
