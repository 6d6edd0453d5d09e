"""Solvers of ODEs and of matrices: what they report, and what becomes of a run when one of them gives up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn

T = TypeVar("T")

# torchdiffeq asserts; with parameters that are not finite, or a field too stiff, no step is small enough.
_TORCHDIFFEQ = ("underflow in dt", "non-finite values in state")


def solving(work: Callable[[], T], unsolved: T) -> T:
    """What `work` returns, or `unsolved` where a solver gives up: a run then counts it as a loss that is not finite."""
    try:
        return work()
    except (AssertionError, RuntimeError) as error:
        if not _gave_up(error):
            raise
        return unsolved


def _gave_up(error: Exception) -> bool:
    """Some baselines decompose their statistics as they are; with numbers that have run away torch refuses that."""
    if isinstance(error, torch.linalg.LinAlgError):
        return True
    if isinstance(error, AssertionError):
        return str(error).startswith(_TORCHDIFFEQ)
    return type(error).__name__ == "SolveError"


def evaluations(found: Sequence[nn.Module]) -> dict[str, int]:
    """`nfe_forward` and `nfe_backward` of the last pass, summed over the modules that report them."""
    if not found:
        return {}
    return {key: sum(int(getattr(module, key)) for module in found) for key in ("nfe_forward", "nfe_backward")}


def reporting(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules that count evaluations."""
    if hasattr(module, "nfe_forward"):
        yield module
    else:
        for child in module.children():
            yield from reporting(child)
