"""Saved states have a version: older ones are brought up to date, and one of something else is refused in a sentence.

A stamp travels in the clock: the version, and the parts that decide what the state holds. Version 0 had none;
until version 1 the factor of a large side was its diagonal alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

VERSION = 2
STAMP = "stamp"
BEGINS = ("game", "none")
"""A state that was saved without a game may go on with one."""
LIKE_PARAMETER = ("exp_avg", "exp_avg_sq", "square_avg", "momentum_buffer", "direction")
"""Tensors of the state in the parameter's own shape."""

MOMENTS = ("exp_avg", "exp_avg_sq", "square_avg")
"""Those of them that torch's rules want in its dtype."""

Packed = dict[str, Any]
"""What ``state_dict`` returns."""


def stamped(state: Packed, parts: Mapping[str, str]) -> Packed:
    """The state with its version and the parts it was made with."""
    first, *others = state["param_groups"]
    clock = {**first["clock"], STAMP: {"version": VERSION, **parts}}
    return {**state, "param_groups": [{**first, "clock": clock}, *others]}


def unstamped(state: Packed) -> tuple[Packed, dict[str, Any]]:
    """The state without its stamp, and the stamp; one of version 0 where there is none."""
    if not state["param_groups"]:
        return state, {"version": 0}
    first, *others = state["param_groups"]
    clock = dict(first.get("clock", {}))
    stamp = clock.pop(STAMP, {"version": 0})
    return {**state, "param_groups": [{**first, "clock": clock}, *others]}, stamp


def from_0(stamp: dict[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
    """Version 0 did not say what it was made with: it is taken for this optimizer's own, and its shapes decide."""
    return {**stamp, **parts, "version": 1}


def from_1(stamp: dict[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
    """Factors that version 1 kept as diagonals are read as they are: the curvature cuts what it meets."""
    return {**stamp, "version": 2}


MIGRATIONS: dict[int, Callable[[dict[str, Any], Mapping[str, str]], dict[str, Any]]] = {0: from_0, 1: from_1}
"""How a stamp of a version becomes one of the next."""


def migrated(stamp: dict[str, Any], parts: Mapping[str, str]) -> dict[str, Any]:
    """The stamp in today's version. Raises ValueError for a version of the future."""
    if stamp["version"] > VERSION:
        raise ValueError(
            f"The state is of version {stamp['version']}, and this ocnopt reads versions up to {VERSION}; "
            "load it with the ocnopt that saved it, or a newer one."
        )
    while stamp["version"] < VERSION:
        stamp = MIGRATIONS[stamp["version"]](stamp, parts)
    return stamp


def require_parts(stamp: Mapping[str, Any], parts: Mapping[str, str]) -> None:
    """Raise ValueError at the first part that differs."""
    for name, mine in parts.items():
        if stamp[name] != mine and (name, stamp[name]) != BEGINS:
            raise ValueError(
                f"The state was saved with {name}={stamp[name]}, and this optimizer has {name}={mine}; "
                "build it with the same before loading."
            )


def require_places(state: Packed, groups: Sequence[Mapping[str, Any]], names: Mapping[Tensor, str]) -> None:
    """Raise ValueError at the first group or tensor of the state that has no place among the parameters."""
    saved = state["param_groups"]
    if len(saved) != len(groups):
        raise ValueError(f"The state has {len(saved)} parameter groups, and this optimizer {len(groups)}.")
    for number, (theirs, mine) in enumerate(zip(saved, groups, strict=True)):
        if len(theirs["params"]) != len(mine["params"]):
            raise ValueError(
                f"The state has {len(theirs['params'])} parameters in group {number}, and this optimizer "
                f"{len(mine['params'])}."
            )
        for key, p in zip(theirs["params"], mine["params"], strict=True):
            require_shapes(state["state"].get(key, {}), p, names[p])


def require_shapes(entries: Mapping[str, Any], p: Tensor, name: str) -> None:
    for key in LIKE_PARAMETER:
        found = entries.get(key)
        if isinstance(found, Tensor) and found.shape != p.shape:
            raise ValueError(
                f"The state of {name} has {key} of shape {tuple(found.shape)}, and the parameter has shape "
                f"{tuple(p.shape)}; build the same model before loading."
            )


def placed(value: Any, p: Tensor, name: str) -> Any:
    """A saved value beside its parameter: torch would round factors to the dtype of the parameter."""
    if isinstance(value, dict):
        return {key: placed(x, p, str(key)) for key, x in value.items()}
    if not isinstance(value, Tensor):
        return value
    return value.detach().to(p.device, kept_in(value.dtype, p.dtype, name), copy=True)


def kept_in(saved: torch.dtype, own: torch.dtype, name: str) -> torch.dtype:
    """The dtype it is kept in: the parameter's for second moments and the like, at least float32 for factors."""
    if not saved.is_floating_point:
        return saved
    wide = torch.promote_types(own, torch.float32)
    if name in MOMENTS:
        return own
    return saved if saved in (own, wide) else wide
