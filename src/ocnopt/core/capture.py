"""Capture of the trajectory by forward hooks and output tensor hooks on a plain ``nn.Module``.

The input is bound in the closure of the tensor hook, so that checkpointing, reuse and calls whose
output is thrown away leave no unmatched pairs. ``register_full_backward_hook`` is never used: it
breaks on in-place activations. Hooks hold their ``Capture`` weakly and copy as inert, so that a
deep copy of the model (an average, a checkpoint) does not go on capturing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils._pytree import tree_leaves, tree_map_only

from .losses import recognise
from .trajectory import Call, Leaves, Sweep


class Mode(Enum):
    """What a gradient that arrives now is: the loss's own, a column of the terminal factor, a draw, or nobody's."""

    LOSS = "loss"
    COLUMN = "column"
    DRAW = "draw"
    OFF = "off"


@dataclass(frozen=True)
class Slot:
    """How the calls of a module are kept.

    whole: every sample is needed even when only a few are wanted (batch statistics, unknown modules).
    rng: the module may draw random numbers, so the generators' state before it is kept.
    dim: the dimension of its input that holds the batch.
    width: output features, by which the positions of a call are counted.
    """

    whole: bool = False
    rng: bool = False
    dim: int = 0
    width: int = 1


class Capture:
    """Gathers calls between two steps; ``take`` hands them over and starts afresh.

    keep: how many samples of a batch to hold, None for all; with ``rows`` 0, keep 0 switches capture off.
    rows: how many rows (samples times positions) the statistics of this step want from every call.
    on_root: called with (sweep, edge of the root output) when the loss's gradient reaches the root output, before it
        goes on into the model: the moment when draws can be sent down the same graph.
    """

    def __init__(self, model: nn.Module, slots: dict[nn.Module, Slot], batch_dim: int = 0) -> None:
        self.model = model
        self.slots = slots
        self.batch_dim = batch_dim
        self.mode = Mode.LOSS
        self.keep: int | None = None
        self.rows = 0
        self.on_root: Callable[[Sweep, GradientEdge], None] | None = None
        self.enabled = True
        self.clear()
        self.handles = [
            model.register_forward_pre_hook(Hook(self, Capture.enter), with_kwargs=True),
            model.register_forward_hook(Hook(self, Capture.leave), with_kwargs=True),
        ]
        for module, slot in slots.items():
            if slot.rng:
                self.handles.append(module.register_forward_pre_hook(Hook(self, Capture.before), with_kwargs=True))
            self.handles.append(module.register_forward_hook(Hook(self, Capture.after), with_kwargs=True))
        weakref.finalize(self, remove, self.handles)

    def clear(self) -> None:
        """Forget the trajectory of this step."""
        self.calls: dict[nn.Module, list[Call]] = {}
        self.order: dict[nn.Module, int] = {}
        self.sweeps: dict[int, Sweep] = {0: Sweep()}
        self.sweep = 0
        self.rng: Any = None

    def remove(self) -> None:
        """Take all hooks off the model."""
        remove(self.handles)

    @property
    def listening(self) -> bool:
        return self.enabled and (self.keep != 0 or self.rows > 0) and self.mode is not Mode.OFF and self.model.training

    @contextmanager
    def during(self, mode: Mode) -> Iterator[None]:
        """Gradients that arrive inside belong to ``mode``."""
        before, self.mode = self.mode, mode
        try:
            yield
        finally:
            self.mode = before

    # hooks, in the order in which they fire

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A forward sweep begins."""
        if not (self.listening and torch.is_grad_enabled()):
            return
        inputs = (x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor) and x.dim() > self.batch_dim)
        first = next(inputs, None)
        self.sweep += 1
        self.sweeps[self.sweep] = Sweep(None if first is None else first.shape[self.batch_dim])

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module that may draw random numbers is about to run."""
        if self.listening and torch.is_grad_enabled():
            self.rng = generator_states()

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A player's module has run: bind what entered to the gradients that will come back."""
        if not self.listening:
            return
        # Reentrant checkpointing runs the first forward without gradients; the place is that of the first call.
        self.order.setdefault(module, len(self.order))
        outputs = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.requires_grad]
        if not torch.is_grad_enabled() or not outputs:
            return
        call = Call(*detached(args, kwargs), tuple(x.shape for x in outputs), self.sweep, self.order[module])
        call.batch, call.rng = outputs[0].shape[self.slots[module].dim], self.rng
        for j, out in enumerate(outputs):
            out.register_hook(Arrival(self, module, call, j))

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """The sweep ends: watch for the gradient of the root output, which reveals the loss."""
        if not (self.listening and torch.is_grad_enabled()):
            return
        sweep = self.sweeps[self.sweep]
        for x in tree_leaves(output):
            if isinstance(x, Tensor) and x.requires_grad and x.dim() >= 2:
                x.register_hook(RootArrival(self, sweep, x.detach(), x.output_nr))

    def arrived(self, module: nn.Module, call: Call, j: int, gradient: Tensor) -> None:
        """A gradient has come back to output j of a call."""
        # A pass with create_graph=True is a penalty or a divergence, not the loss's own.
        if self.mode is Mode.OFF or torch.is_grad_enabled():
            return
        slot = self.slots[module]
        if not call.leaves and not call.columns and not call.draws:
            self.calls.setdefault(module, []).append(self.trimmed(call, slot))
        leaves = self.leaves_of(call)
        kept = self.kept(gradient.detach(), slot, call)
        leaves[j] = kept if leaves[j] is None else leaves[j] + kept

    def leaves_of(self, call: Call) -> Leaves:
        """Where gradients of the present mode are kept."""
        empty: Leaves = [None] * len(call.sizes)
        if self.mode is Mode.COLUMN:
            column = self.column
            while len(call.columns) <= column:
                call.columns.append(list(empty))
            return call.columns[column]
        if self.mode is Mode.DRAW:
            call.draws = call.draws or empty
            return call.draws
        call.leaves = call.leaves or empty
        return call.leaves

    column = 0

    def trimmed(self, call: Call, slot: Slot) -> Call:
        """The call with only as many samples of its inputs as are wanted, batch first."""
        if slot.dim:
            call.sizes = tuple(moved_size(size, slot.dim) for size in call.sizes)
        call.args, call.kwargs = tree_map_only(Tensor, lambda x: self.kept(x, slot, call), (call.args, call.kwargs))
        return call

    def kept(self, x: Tensor, slot: Slot, call: Call) -> Tensor:
        """The samples of x that are wanted. A part is copied, so that the whole can be freed."""
        if slot.dim and x.dim() > slot.dim:
            x = x.movedim(slot.dim, 0)
        if self.keep is None or slot.whole or x.dim() == 0 or x.shape[0] != call.batch:
            return x
        keep = max(self.keep, self.wanted(slot, call))
        return x if x.shape[0] <= keep else x[:keep].clone()

    def wanted(self, slot: Slot, call: Call) -> int:
        """Samples of a call that make up the rows which the statistics want."""
        positions = max(1, call.sizes[0][1:].numel() // slot.width)
        return -(-self.rows // positions)


def moved_size(size: torch.Size, dim: int) -> torch.Size:
    """The shape after ``movedim(dim, 0)``."""
    return torch.Size((size[dim], *size[:dim], *size[dim + 1 :])) if len(size) > dim else size


def detached(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Inputs of a call cut off from the graph."""
    return tree_map_only(Tensor, Tensor.detach, args), tree_map_only(Tensor, Tensor.detach, kwargs)


def generator_states() -> dict[str, Tensor]:
    """States of the default generators, by device type."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def remove(handles: list[Any]) -> None:
    while handles:
        handles.pop().remove()


class Hook:
    """A module hook that holds its capture weakly and is inert once copied or pickled."""

    def __init__(self, capture: Capture | None = None, method: Callable[..., None] | None = None) -> None:
        self.capture = (lambda: None) if capture is None else weakref.ref(capture)
        self.method = method

    def __call__(self, *args: Any) -> None:
        capture = self.capture()
        if capture is not None and self.method is not None:
            self.method(capture, *args)

    def __deepcopy__(self, memo: Any) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


@dataclass(eq=False)
class Arrival:
    """Tensor hook of one output of one call."""

    capture: Capture
    module: nn.Module
    call: Call
    j: int

    def __call__(self, gradient: Tensor) -> None:
        self.capture.arrived(self.module, self.call, self.j, gradient)


@dataclass(eq=False)
class RootArrival:
    """Tensor hook of a root output h.

    It must hold neither the output nor its graph node, which hold the hook: such a cycle through the
    graph is never collected. The node is asked for when the gradient arrives.
    """

    capture: Capture
    sweep: Sweep
    h: Tensor
    output_nr: int

    def __call__(self, gradient: Tensor) -> None:
        if self.capture.mode is not Mode.LOSS or torch.is_grad_enabled():
            return
        if self.sweep.seen is None and self.h.shape[0] == self.sweep.batch:
            self.sweep.seen = recognise(self.h, gradient)
            node = torch._C._current_autograd_node()
            if self.capture.on_root is not None and node is not None:
                self.capture.on_root(self.sweep, GradientEdge(node, self.output_nr))
