"""torch.compile for pure functions of tensors, where an optimizer asks for it; else they run as they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Compiled:
    """How pure functions are compiled: the arguments of ``torch.compile``.

    dynamic: None compiles for the first shapes that come, and for any others once these differ.
    """

    backend: str | Callable[..., Any] = "inductor"
    mode: str | None = None
    dynamic: bool | None = None


CHOSEN: ContextVar[Compiled | None] = ContextVar("CHOSEN", default=None)


def compiled_of(value: Any) -> Compiled | None:
    """How pure functions are compiled, None for not at all."""
    if isinstance(value, Compiled):
        return value
    if not isinstance(value, bool):
        raise TypeError(f"compile={value!r} is not known; give True, False, or an ocnopt.core.compiling.Compiled.")
    return Compiled() if value else None


@contextmanager
def compiling(how: Compiled | None) -> Iterator[None]:
    """Inside, compilable functions are compiled so; with None they run as they are written."""
    before = CHOSEN.set(how)
    try:
        yield
    finally:
        CHOSEN.reset(before)


def compilable(twin: Callable[..., Any]) -> Callable[[Function], Function]:
    """Of a function that changes nothing but tensors it is given: ``twin`` is what is compiled in its place.

    The twin is given tensors for numbers, float64 and on the CPU: one of no dimension for each, one for a list.
    """

    @lru_cache
    def compiled(how: Compiled) -> Any:
        return torch.compile(twin, backend=how.backend, mode=how.mode, dynamic=how.dynamic)

    def decorated(function: Function) -> Function:
        @wraps(function)
        def chosen(*args: Any) -> Any:
            how = CHOSEN.get()
            return function(*args) if how is None else compiled(how)(*map(without_numbers, args))

        return chosen  # type: ignore[return-value]

    return decorated


def without_numbers(value: Any) -> Any:
    """A number, or a list of numbers, as a tensor; anything else as it is."""
    several = isinstance(value, list) and bool(value) and isinstance(value[0], int | float)
    return torch.tensor(value, dtype=torch.float64) if several or isinstance(value, int | float) else value
