"""Whether everything that enters a step, is kept over it, and moves the parameters is finite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def finite(loss: Any, gradients: Sequence[Tensor]) -> bool:
    """Whether the loss, if known, and all gradients are finite."""
    if loss is not None and not bool(torch.as_tensor(loss).isfinite().all()):
        return False
    return are_finite([g for g in gradients if not g.is_sparse])


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all entries are finite. A norm is, only if all of them are; it may overflow where no entry does."""
    filled = [x for x in tensors if x.numel()]
    if not filled:
        return True
    norms = [*torch._foreach_norm(filled)]
    if any(x.dtype != norms[0].dtype or x.device != norms[0].device for x in norms):
        norms = [x.to(norms[0].device, torch.float32) for x in norms]
    return bool(torch.stack(norms).sum().isfinite()) or all(bool(x.isfinite().all()) for x in filled)


def tensors_of(states: Iterable[dict[str, Any]]) -> Iterator[Tensor]:
    """All tensors of the states, those in nested dicts too."""
    for x in (x for state in states for x in state.values()):
        if isinstance(x, dict):
            yield from tensors_of([x])
        elif isinstance(x, Tensor) and x.is_floating_point():
            yield x
