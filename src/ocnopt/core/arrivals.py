"""Tensor hooks of the capture: what a gradient that arrives now is, and to which call or sweep it belongs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from .backward import is_anothers
from .recognition import recognise
from .trajectory import Call, Sweep

if TYPE_CHECKING:
    from .capture import Capture


class Mode(Enum):
    """What a gradient that arrives now is: the loss's own, a column of the terminal factor, a draw, or nobody's."""

    LOSS = "loss"
    COLUMN = "column"
    DRAW = "draw"
    OFF = "off"


@dataclass(eq=False)
class Arrival:
    """Tensor hook of one output of one call."""

    capture: Capture
    module: nn.Module
    sweep: Sweep
    call: Call
    j: int

    def __call__(self, gradient: Tensor | None) -> None:
        if gradient is not None:  # it is where a pass has been held up, as by an ODE, to go on later
            self.capture.arrived(self.module, self.sweep, self.call, self.j, gradient)


@dataclass(eq=False)
class RootArrival:
    """Tensor hook of a root output h.

    It must hold neither the output nor its graph node, which hold the hook: such a cycle through the
    graph is never collected. The node is asked for when the gradient arrives.
    """

    capture: Capture
    number: int
    sweep: Sweep
    h: Tensor
    output_nr: int

    def __call__(self, gradient: Tensor | None) -> None:
        if (
            gradient is None
            or self.capture.mode is not Mode.LOSS
            or torch.is_grad_enabled()
            or is_anothers(self.capture)
        ):
            return
        self.capture.begin()
        # What a reentrant checkpoint runs again on the way back is of this sweep, not of the last.
        self.capture.resume(self.number, self.sweep)
        self.capture.reached[self.number] = self.sweep
        if self.sweep.seen is None and self.h.dim() > 1 and self.h.shape[0] == self.sweep.batch:
            self.sweep.seen = recognise(self.h.to(gradient.dtype), gradient, self.capture.scale)
            node = torch._C._current_autograd_node()
            if self.capture.on_root is not None and node is not None:
                self.capture.on_root(self.sweep, GradientEdge(node, self.output_nr))


def watch_root(h: Tensor, arrival: RootArrival) -> None:
    """Let it know of the gradient of a root output, or of what the output is a cast of.

    accelerate casts the outputs of a model under autocast to float32. Where the model has computed its loss itself,
    from what was there before the cast, no gradient comes back through the cast.
    """
    h.register_hook(arrival)
    if h.grad_fn is not None and h.grad_fn.name() == "ToCopyBackward0":
        (node, output_nr), *_ = h.grad_fn.next_functions
        if node is not None:
            before = replace(arrival, output_nr=output_nr)
            node.register_prehook(lambda gradients: before(gradients[output_nr]))
