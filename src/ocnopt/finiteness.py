"""Whether everything that enters a step, is kept over it, and moves the parameters is finite."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor


def finite(loss: Any, gradients: Sequence[Tensor], bound: float) -> bool:
    """Whether the loss, if known, and all gradients are finite, which ``bound_of`` is the bound of."""
    if loss is not None and not bool(torch.as_tensor(loss).isfinite().all()):
        return False
    return math.isfinite(bound) or each_is_finite(g for g in gradients if not g.is_sparse)


def are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all entries are finite."""
    tensors = [*tensors]
    return math.isfinite(bound_of(tensors)) or each_is_finite(tensors)


def each_is_finite(tensors: Iterable[Tensor]) -> bool:
    """The same, with a look at each tensor by itself."""
    return all(bool(x.isfinite().all()) for x in tensors)


def bound_of(tensors: Iterable[Tensor]) -> float:
    """Σ of norms: no entry is larger. Finite only if all entries are; it may overflow where none does."""
    filled = [x for x in tensors if x.numel() and not x.is_sparse]
    if not filled:
        return 0.0
    norms = [*torch._foreach_norm(filled)]
    if any(x.dtype != norms[0].dtype or x.device != norms[0].device for x in norms):
        norms = [x.to(norms[0].device, torch.float32) for x in norms]
    return float(torch.stack(norms).sum())


def tensors_of(states: Iterable[dict[str, Any]]) -> Iterator[Tensor]:
    """All tensors of the states, those in nested dicts too."""
    for x in (x for state in states for x in state.values()):
        if isinstance(x, dict):
            yield from tensors_of([x])
        elif isinstance(x, Tensor) and x.is_floating_point():
            yield x
