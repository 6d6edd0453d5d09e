"""The façade's options: short names to objects through one table each, and clear sentences for what cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from .core.search import Model
from .core.terminal import Auto, Fisher, Gradient, GaussNewton, Terminal, TrueVsRest
from .core.value import Coupled, OwnGains, PerSample, Value
from .curvature import TABLE as CURVATURES
from .curvature import Curvature

TERMINALS: dict[str, Callable[[], Terminal]] = {
    "auto": Auto,
    "gradient": Gradient,
    "true-vs-rest": TrueVsRest,
    "gauss-newton": GaussNewton,
    "fisher": Fisher,
}
VALUES: dict[str, Callable[[], Value]] = {"per-sample": PerSample, "coupled": Coupled, "own-gains": OwnGains}
ROLLOUTS = {"linear": "linear", "nonlinear": "nonlinear"}
SEARCHES: dict[str, Callable[[], Model | None]] = {"model": Model, "fixed": lambda: None}


def chosen(argument: str, value: Any, table: Mapping[str, Any]) -> Any:
    """The entry of the table that a name stands for; an object is taken as it is.

    Raises ValueError that lists the valid names.
    """
    if not isinstance(value, str):
        return value
    if value not in table:
        raise ValueError(f"{argument}={value!r} is not known; choose one of {', '.join(map(repr, table))}.")
    return table[value]


def made(argument: str, value: Any, table: Mapping[str, Callable[[], Any]]) -> Any:
    """``chosen``, with a name made into an object of its default options."""
    entry = chosen(argument, value, table)
    return entry() if isinstance(value, str) else entry


def curvature_of(value: str | Curvature) -> Curvature:
    return made("curvature", value, CURVATURES)


def require_rate(name: str, value: float | Tensor, *, zero: bool = False) -> None:
    """Raise ValueError unless the value is a finite, positive number (or zero, where that makes sense)."""
    number = float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        wanted = "must not be negative" if zero else "must be a positive number"
        raise ValueError(f"{name}={number} {wanted}.")


def require_betas(betas: tuple[float, float]) -> None:
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas={betas} must be two numbers in [0, 1).")


def require_trainable(model: Any) -> None:
    """Raise unless the model is a module with something to train."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"OCNOpt takes the model itself (an nn.Module), not {type(model).__name__}: it needs the layers, "
            "not only their parameters. Write OCNOpt(model), with params= for a part of it or for groups."
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no trainable parameters: none has requires_grad=True.")
