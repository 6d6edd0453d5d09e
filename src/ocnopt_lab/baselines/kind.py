"""What the lab has to know of an optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.optim import Optimizer


@dataclass(frozen=True)
class Kind:
    """An optimizer that the command line knows.

    make: from a model and, by keyword, options; imports what it needs only then, and raises ValueError for values that
        make no sense. An optimizer whose `step` must be given a closure says so by an attribute `needs_closure`.
    options: names of the options that may be given.
    rates: learning rates that a study sweeps, in ascending order.
    defaults: options used where none are given, over the optimizer's own.
    package: the distribution that it comes from.
    """

    make: Callable[..., Optimizer]
    options: frozenset[str]
    rates: tuple[float, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    package: str = "torch"


def evaluated(closure: Callable[[], Any] | None) -> Any:
    """What the closure of a step returns, called with gradients; None without one."""
    with torch.enable_grad():
        return None if closure is None else closure()
