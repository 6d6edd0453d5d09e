"""Calls of one player laid side by side: many small products become few large ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from .trajectory import Call, Leaves, arrived


def merged(calls: Sequence[Call]) -> list[Call]:
    """Calls of one sweep that took tensors of the same shapes, as one call with a position for each of them.

    For players to which all dimensions between the batch and the features are positions: sums over calls become sums
    over positions, in one product instead of many.
    """
    if len(calls) == 1:
        return [*calls]
    kinds: list[tuple[Any, list[Call]]] = []
    for call in calls:
        signature = _signature(call)
        alike = next((group for kind, group in kinds if kind == signature), None)
        if alike is None:
            kinds.append((signature, [call]))
        else:
            alike.append(call)
    return [group[0] if len(group) == 1 else _one_for_all(group) for _, group in kinds]


def _signature(call: Call) -> tuple[Any, ...]:
    """Equal for calls that can lie side by side: inputs other than tensors and None, or nothing back, equal nothing."""
    inputs, nesting = tree_flatten((call.args, call.kwargs))
    shapes = [x.shape if isinstance(x, Tensor) else None if x is None else object() for x in inputs]
    whole = all(map(arrived, (call.leaves, *call.columns))) or object()
    return call.sweep, call.sizes, len(call.columns), whole, nesting, shapes


def _one_for_all(calls: Sequence[Call]) -> Call:
    """Calls of one signature, stacked along dimension 1."""
    first = calls[0]
    args, kwargs = tree_map(_stacked, *((call.args, call.kwargs) for call in calls))
    return replace(
        first,
        args=args,
        kwargs=kwargs,
        sizes=tuple(torch.Size((size[0], len(calls), *size[1:])) for size in first.sizes),
        leaves=_beside([call.leaves for call in calls]),
        draws=_beside([call.draws for call in calls]) if all(arrived(call.draws) for call in calls) else [],
        columns=[_beside(parts) for parts in zip(*(call.columns for call in calls), strict=True)],
        count=len(calls),
    )


def _stacked(*inputs: Any) -> Any:
    return None if inputs[0] is None else torch.stack(inputs, dim=1)


def _beside(parts: Sequence[Leaves]) -> Leaves:
    """Cotangents of several calls, stacked output by output; a call to which none came back there has zeros."""
    stacked: Leaves = []
    for leaves in zip(*parts, strict=True):
        like = next((leaf for leaf in leaves if leaf is not None), None)
        full = [] if like is None else [torch.zeros_like(like) if leaf is None else leaf for leaf in leaves]
        stacked.append(torch.stack(full, dim=1) if full else None)
    return stacked
