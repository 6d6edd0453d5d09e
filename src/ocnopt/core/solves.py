"""Calls of a vector field that one solve of a differential equation makes, where the solver's steps are the graph.

They move together: all of one solve are one call's worth of evidence, see ``curvature.factors``. Their cotangents carry
the weights of the steps already; how much of the time each stands for is not known, and equal parts are assumed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .trajectory import Call

_here = threading.local()


@contextmanager
def one_solve() -> Iterator[None]:
    """Calls made inside are of one solve of a differential equation."""
    outer = getattr(_here, "calls", None)
    _here.calls = calls = dict[nn.Module, list[Call]]()
    try:
        yield
    finally:
        _here.calls = outer
        for call, n in ((call, len(of_module)) for of_module in calls.values() for call in of_module):
            call.share = 1 / n


def note(module: nn.Module, call: Call) -> None:
    """A call was made."""
    calls = getattr(_here, "calls", None)
    if calls is not None:
        calls.setdefault(module, []).append(call)
