"""What the backward pass at hand is, for those who run passes of their own inside it.

The adjoint of an ODE evaluates its vector field anew on the way back, more often than counts and with gradients that
count only by a quadrature weight. Such evaluations are held apart until their weight is known, or not heard at all.
What is evaluated is kept per thread, that of the node which evaluates. Which pass is under way is not: one that was
sent from here may run in the threads of its devices.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from .trajectory import Call

if TYPE_CHECKING:
    from .arrivals import Mode
    from .capture import Capture

REENTRANT = "use_reentrant=True"
"""Words by which torch's refusal of passes for some inputs only is known."""

_here, _everywhere = threading.local(), SimpleNamespace()


@dataclass(frozen=True, eq=False)
class Pass:
    """One backward pass that is not the loss's own.

    capture: that sends it, and for whom.  mode: what it carries.  column: number of its column of the terminal factor.
    targets: what it asks for, so that it reaches all players.
    refused: told when a checkpoint does not let draws pass, for which the loss's own gradient then serves.
    """

    capture: Capture
    mode: Mode
    column: int = 0
    targets: Sequence[Tensor] = ()
    refused: Callable[[], None] = field(default=lambda: None)

    def send(self, roots: Sequence[Tensor] | Sequence[GradientEdge], u: Sequence[Tensor]) -> None:
        """Send cotangents down the graph, which stays as it is.

        Raises ValueError where a reentrant checkpoint does not let a column pass; draws are dropped there.
        """
        try:
            with self.again():
                torch.autograd.grad(roots, list(self.targets), list(u), retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            if REENTRANT not in str(error):
                raise
            if not self.draws:
                raise ValueError(
                    "A terminal factor of rank above one cannot pass a checkpoint(..., use_reentrant=True); "
                    "checkpoint with use_reentrant=False, or choose terminal='true-vs-rest'."
                ) from error
            self.refused()
            self.capture.drop_draws()

    @property
    def draws(self) -> bool:
        return self.mode.value == "draw"

    @contextmanager
    def again(self) -> Iterator[None]:
        """Gradients that arrive inside belong to this pass."""
        self.capture.column = self.column
        with self.capture.during(self.mode, self):
            yield


@dataclass(eq=False)
class Evaluation:
    """One evaluation of a vector field: the calls that gradients come back to while it is open, in no trajectory"""

    calls: dict[Capture, dict[nn.Module, list[Call]]] = field(default_factory=dict)
    home: object = field(default_factory=object)

    def of(self, capture: Capture) -> dict[nn.Module, list[Call]]:
        """Calls of one model's modules."""
        return self.calls.setdefault(capture, {})

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Calls that gradients come back to inside are of this evaluation."""
        with _set(_here, "evaluation", self):
            yield

    def deposit(self, weight: float, share: float = 1.0) -> None:
        """Add the calls to the trajectories of their models.

        weight: by which all that came back counts.  share: of the time of the whole solve, see ``Call``.
        """
        for capture, by_module in self.calls.items():
            for module, calls in by_module.items():
                for call in calls:
                    call.weigh(weight)
                    call.share = share
                capture.calls.setdefault(module, []).extend(calls)
        self.calls = {}


def passing() -> Pass | None:
    """The pass that is under way; None for the loss's own."""
    return getattr(_everywhere, "passing", None)


def is_anothers(capture: Capture) -> bool:
    """Whether the pass that is under way was sent by another optimizer, for itself alone."""
    one = passing()
    return one is not None and one.capture is not capture


def evaluation() -> Evaluation | None:
    """The evaluation that is open."""
    return getattr(_here, "evaluation", None)


def hold(evaluation: Evaluation | None) -> None:
    """Open an evaluation until the next one, where a pair of hooks has no block to do it in."""
    _here.evaluation, _here.passed_over = evaluation, False


def pass_over() -> None:
    """Nobody is to hear the evaluation that begins, until the next ``hold``."""
    _here.evaluation, _here.passed_over = None, True


def is_muted() -> bool:
    """Whether calls are to be passed over."""
    return getattr(_here, "muted", False) or getattr(_here, "passed_over", False)


@contextmanager
def muted() -> Iterator[None]:
    """Calls inside count for nothing: their modules' places in the order of the trajectory are all that is noted."""
    with _set(_here, "muted", True):
        yield


@contextmanager
def under_way(one: Pass | None) -> Iterator[None]:
    """The pass that runs inside."""
    with _set(_everywhere, "passing", one):
        yield


@contextmanager
def _set(place: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(place, name, None)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)
