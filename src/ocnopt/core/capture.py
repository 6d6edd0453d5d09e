"""Capture of the trajectory by forward hooks and output tensor hooks on a plain ``nn.Module``.

The input is bound in the closure of the tensor hook, so that checkpointing, reuse and calls whose output is thrown
away leave no unmatched pairs. ``register_full_backward_hook`` is never used: it breaks on in-place activations. Hooks
hold their ``Capture`` weakly and copy as inert, so that a deep copy of the model does not go on capturing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakIdKeyDictionary

from ..linalg.symmetric import Tally
from . import backward, solves
from .arrivals import Arrival, Mode, RootArrival, watch_root
from .hooks import Hook, generator_states, remove, remove_inert
from .ranks import ALONE, ranks_of
from .trajectory import Call, Leaves, Sweep, detached, differentiable, mapped, moved_size


@dataclass(frozen=True)
class Slot:
    """How the calls of a module are kept.

    whole: every sample is needed even when only a few are wanted (batch statistics, unknown modules).
    rng: the module may draw random numbers, so the generators' state before it is kept.
    dim: the dimension of its input that holds the batch.
    width: output features, by which the positions of a call are counted.
    dims: dimensions of its output with a batch; a call with fewer has none, and nothing per sample to capture.
    entangled: an output is made of another one, to which its gradient would come back a second time: they are copied.
    """

    whole: bool = False
    rng: bool = False
    dim: int = 0
    width: int = 1
    entangled: bool = False
    dims: int = 1


class Capture:
    """Gathers the calls of one step, until ``clear``.

    calls: per module, those that a gradient has come back to.  sweeps: the forward sweeps that someone still needs.
    heard: the sum of the losses that were given by hand, and are on their way back.
    keep: how many samples of a batch to hold, None for all; with ``rows`` 0, keep 0 switches capture off.
    rows: how many rows (samples times positions) the statistics of this step want from every call.
    scale: what the loss is expected to be multiplied with, as gradient scalers do; matters to soft targets alone.
    void: whether no parameter holds a gradient, so that nothing which came back before belongs to the coming step.
    ranks: the processes that average the gradients, as the last forward pass has shown.  tally: counts what they send.
    on_root: called with (sweep, edge of the root output) when the loss's gradient reaches it, before it goes on.
    on_hidden: called with (capture, root outputs) of a sweep in which players ran without gradients, as they do in an
        adjoint's forward solve, and will be called again on the way back.
    refusals: why calls of a module could not be captured in this step.
    overheard: takes the outputs that ``optimizer.backward`` is given in a trial, where someone asks for them.
    """

    def __init__(self, model: nn.Module, slots: dict[nn.Module, Slot], batch_dim: int = 0) -> None:
        self.model = model
        self.slots = slots
        self.batch_dim = batch_dim
        self.mode = Mode.LOSS
        self.keep: int | None = None
        self.rows, self.scale = 0, 1.0
        self.ranks, self.tally = ALONE, Tally()
        self.void: Callable[[], bool] = lambda: False
        self.on_root: Callable[[Sweep, GradientEdge], None] | None = None
        self.on_hidden: Callable[[Capture, list[Tensor]], None] | None = None
        self.enabled = True
        self.entered, self.hidden = 0, False
        self.overheard: list[Tensor] | None = None
        self.clear()
        remove_inert(model)
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
        self.drop()
        self.order: dict[nn.Module, int] = {}
        self.sweeps: weakref.WeakValueDictionary[int, Sweep] = weakref.WeakValueDictionary()
        self.roots = WeakIdKeyDictionary()
        self.resume(0, Sweep())
        self.rng: Any = None

    def drop(self) -> None:
        """Forget what came back; forward passes that wait for their backward pass stay."""
        self.calls: dict[nn.Module, list[Call]] = {}
        self.heard: Tensor | None = None
        self.home = object()
        self.refusals: dict[nn.Module, str] = {}
        self.reached: dict[int, Sweep] = {}
        self.task: int | None = None

    def begin(self) -> None:
        """The loss's own gradient arrives: with a new pass, forget what belongs to gradients that were thrown away."""
        task = torch._C._current_graph_task_id()
        if self.task not in (None, task) and self.void():
            self.drop()
        self.task = task

    def unscale(self, scale: float) -> None:
        """The trajectory as if the loss had not been multiplied by ``scale``."""
        for sweep in self.reached.values():
            sweep.unscale(scale)
        for call in (call for calls in self.calls.values() for call in calls):
            call.unscale(scale)

    def resume(self, number: int, sweep: Sweep) -> None:
        """Calls from now on belong to this sweep."""
        self.sweep, self.current = number, sweep
        self.sweeps[number] = sweep

    def sweep_of(self, output: Tensor) -> Sweep:
        """The sweep that an output of the model came from; for other tensors the last one."""
        return self.sweeps[self.roots.get(output, self.sweep)]

    def remove(self) -> None:
        """Take all hooks off the model."""
        remove(self.handles)

    @property
    def listening(self) -> bool:
        return self.enabled and (self.keep != 0 or self.rows > 0) and self.mode is not Mode.OFF and self.model.training

    @contextmanager
    def during(self, mode: Mode, one: backward.Pass | None = None) -> Iterator[None]:
        """Gradients that arrive inside belong to ``mode``, and to this pass where there is one."""
        before, self.mode = self.mode, mode
        try:
            with backward.under_way(one or backward.Pass(self, mode)):
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
        self.entered += 1
        self.hidden = False
        backward.hold(None)  # of a backward pass that an error has ended
        self.ranks = ranks_of(module, self.tally)
        self.resume(self.entered, Sweep(None if first is None else first.shape[self.batch_dim]))

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A module that may draw random numbers is about to run."""
        if self.listening and torch.is_grad_enabled():
            self.rng = generator_states()

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """A player's module has run: bind what entered to the gradients that will come back."""
        if not self.listening:
            return None
        # Reentrant checkpointing runs the first forward without gradients; the place is that of the first call.
        self.order.setdefault(module, len(self.order))
        if backward.is_muted():
            return None
        self.hidden = self.hidden or not torch.is_grad_enabled()
        if self.slots[module].entangled:
            output = tree_map_only(Tensor, Tensor.clone, output)
        outputs = differentiable(output)
        if not torch.is_grad_enabled() or not outputs or outputs[0].dim() < self.slots[module].dims:
            return None
        call = Call(*detached(args, kwargs), tuple(x.shape for x in outputs), self.sweep, self.order[module])
        call.batch, call.rng = outputs[0].shape[self.slots[module].dim], self.rng
        solves.note(module, call)
        for j, out in enumerate(outputs):
            out.register_hook(Arrival(self, module, self.current, call, j))
        return output if self.slots[module].entangled else None

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """The sweep ends: watch for the gradient of the root output, which reveals the loss."""
        if not (self.listening and torch.is_grad_enabled()):
            return
        outputs = differentiable(output)
        for x in outputs:
            self.roots[x] = self.sweep
            watch_root(x, RootArrival(self, self.sweep, self.current, x.detach(), x.output_nr))
        if self.hidden and self.on_hidden is not None:
            self.on_hidden(self, outputs)

    def arrived(self, module: nn.Module, sweep: Sweep, call: Call, j: int, gradient: Tensor) -> None:
        """A gradient has come back to output j of a call."""
        # A pass with create_graph=True is a penalty or a divergence, not the loss's own.
        if self.mode is Mode.OFF or torch.is_grad_enabled() or backward.is_anothers(self):
            return
        held = backward.evaluation()
        if self.mode is Mode.LOSS and held is None:  # an evaluation is part of a pass that has begun before
            self.begin()
        slot = self.slots[module]
        calls, home = (self.calls, self.home) if held is None else (held.of(self), held.home)
        if call.home is not home:
            calls.setdefault(module, []).append(self.trimmed(call, slot) if call.home is None else call.emptied())
            call.home = home
            self.reached[call.sweep] = self.sweeps[call.sweep] = sweep
        leaves = self.leaves_of(call)
        before, kept = leaves[j], self.kept(gradient.detach(), slot, call)
        leaves[j] = kept if before is None else before + kept

    def drop_draws(self) -> None:
        """Forget the draws: some calls have them and others cannot."""
        for call in (call for calls in self.calls.values() for call in calls):
            call.draws = []

    def leaves_of(self, call: Call) -> Leaves:
        """Where gradients of the present mode are kept."""
        empty: Leaves = [None] * len(call.sizes)
        if self.mode is Mode.COLUMN:
            while len(call.columns) <= self.column:
                call.columns.append([*empty])
            return call.columns[self.column]
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
        call.args, call.kwargs = mapped(lambda x: self.kept(x, slot, call), call.args, call.kwargs)
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
