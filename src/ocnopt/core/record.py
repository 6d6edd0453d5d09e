"""What the nonlinear roll-out must know of a forward sweep to run it again.

The capture keeps what players need; here every *atom* is written down, the smallest part whose inside the roll-out
does not look into: a player's module, or a module without children. Outputs are not kept: they come anew, and safe
from in-place operations, from the recomputation that linearises an atom.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .capture import Capture, Mode, detached
from .hooks import Hook, generator_states, remove
from .recompute import autocast_state, cloned, entering, replayed, tensors
from .samplewise import is_chain_of, is_samplewise
from .trajectory import Call, Leaves, Sweep, mapped

ACCUMULATED = (
    "rollout='nonlinear' repeats one forward pass and cannot follow gradients accumulated over several; "
    "step after every backward pass, or choose rollout='linear'."
)
UNSEEN = (
    "rollout='nonlinear' repeats the forward pass of the whole model, but the model itself was not called in this "
    "step; call it as model(inputs), or choose rollout='linear'."
)


def atoms(module: nn.Module, players: Set[nn.Module]) -> Iterator[nn.Module]:
    """Players' modules and modules without children, none inside another."""
    children = list(module.children())
    if module in players or not children:
        yield module
        return
    for child in children:
        yield from atoms(child, players)


@dataclass(eq=False)
class Visit:
    """One call of an atom.

    call: its inputs as they entered, shapes of all floating outputs, and Y at them.
    versions: of the input tensors, which tell whether someone has written over them since.
    entered: shapes of all floating inputs.  samples: how many the inputs and Y hold, the first ones; None for all.
    """

    module: nn.Module
    call: Call
    versions: list[int] = field(default_factory=list)
    entered: list[torch.Size] = field(default_factory=list)
    samples: int | None = None

    def __post_init__(self) -> None:
        self.versions = [x._version for x in self.inputs]
        self.entered = [x.shape for x in self.inputs]

    def narrow(self, samples: int, batch: int, outputs: list[Tensor]) -> None:
        """Hold only the first samples of a batch, where everything that entered and left lies by samples.

        They are copied, so that the whole can be freed.
        """
        held = (x for x in tree_leaves((self.call.args, self.call.kwargs)) if isinstance(x, Tensor))
        if samples < batch and not self.lost and all(x.dim() and len(x) == batch for x in (*held, *outputs)):
            self.samples = samples
            self.call.args, self.call.kwargs = mapped(lambda x: x[:samples].clone(), self.call.args, self.call.kwargs)
            self.versions = [x._version for x in self.inputs]

    def first(self, x: Tensor) -> Tensor:
        """The samples that are held, of a tensor of all."""
        return x if self.samples is None else x[: self.samples]

    @property
    def inputs(self) -> list[Tensor]:
        return entering(self.call.args, self.call.kwargs)

    @property
    def lost(self) -> bool:
        """Whether an input is no longer what it was."""
        return [x._version for x in self.inputs] != self.versions

    def cotangents(self, rank: int) -> list[Leaves]:
        """Y at the outputs, column by column; empty where none arrived."""
        given = self.call.columns or ([self.call.leaves] if self.call.leaves else [])
        silent: Leaves = [None] * len(self.call.sizes)
        return [*given, *[silent] * (rank - len(given))] if given else []

    def own_inputs(self, outputs: list[Tensor]) -> None:
        """Copy inputs that the outputs are views of: what is done to the output in place must not reach them."""
        storages = {x.untyped_storage().data_ptr() for x in outputs}
        if any(x.untyped_storage().data_ptr() in storages for x in self.inputs) and not self.lost:
            self.call.args, self.call.kwargs = cloned((self.call.args, self.call.kwargs))
            self.versions = [x._version for x in self.inputs]


class Listener(Protocol):
    """Who is told of the calls of atoms during a forward pass of the root."""

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None: ...

    def after(self, module: nn.Module, output: Any) -> None: ...


class Record:
    """One forward sweep: what it started from, and its visits in order."""

    def __init__(self, recorder: Recorder, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        model = recorder.capture.model
        self.recorder = recorder
        self.args, self.kwargs = cloned(detached(args, kwargs))
        self.rng = generator_states()
        self.buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        self.autocast = autocast_state(next(model.parameters()).device.type)
        self.visits: list[Visit] = []
        self.sweep: Sweep | None = None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = detached(args, kwargs)
        args, kwargs = cloned(inputs) if getattr(module, "inplace", False) else inputs
        capture = self.recorder.capture
        self.sweep = capture.current
        rng = None if self.recorder.is_samplewise(module) else generator_states()
        self.visits.append(Visit(module, Call(args, kwargs, (), sweep=capture.sweep, rng=rng)))

    def after(self, module: nn.Module, output: Any) -> None:
        outputs = tensors(output)
        visit = self.visits[-1]
        visit.call.sizes = tuple(x.shape for x in outputs)
        keep = self.recorder.capture.keep
        if keep and self.sweep and self.sweep.batch and self.recorder.is_samplewise(module):
            visit.narrow(keep, self.sweep.batch, outputs)
        visit.own_inputs(outputs)
        for j, x in enumerate(outputs):
            if x.requires_grad and torch.is_grad_enabled():
                x.register_hook(Arrival(self, visit, j))

    @property
    def enough(self) -> int | None:
        """How many samples repeat the pass, where everything that runs treats each by itself; None for all."""
        held, recorder = {visit.samples for visit in self.visits}, self.recorder
        alike = len(held) == 1 and is_chain_of(recorder.is_samplewise, recorder.capture.model)
        return held.pop() if alike else None

    @contextmanager
    def beginning(self) -> Iterator[None]:
        """Buffers, generators and autocast as they were when the sweep began. The caller puts buffers back."""
        for name, buffer in self.recorder.capture.model.named_buffers():
            if name in self.buffers:
                buffer.copy_(self.buffers[name])
        with replayed(self.rng), torch.autocast(**self.autocast, cache_enabled=False):
            yield


class Recorder:
    """Hooks on the root and on all atoms. One listener at a time hears them: a record, or the roll-out that repeats it.

    records: of the sweeps whose outputs a gradient has come back to; the others vanish with their graphs.
    """

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.clear()
        root = capture.model
        # In front of all other hooks of the root: the repeated call runs those again.
        self.handles = [root.register_forward_pre_hook(Hook(self, Recorder.enter), with_kwargs=True, prepend=True)]
        for atom in dict.fromkeys(atoms(root, capture.slots.keys())):
            self.handles.append(atom.register_forward_pre_hook(Hook(self, Recorder.before), with_kwargs=True))
            self.handles.append(atom.register_forward_hook(Hook(self, Recorder.after), with_kwargs=True))
        self.handles.append(root.register_forward_hook(Hook(self, Recorder.leave), with_kwargs=True))
        weakref.finalize(self, remove, self.handles)

    def clear(self) -> None:
        """Forget the sweeps of this step."""
        self.records: dict[int, Record] = {}
        self.listener: Listener | None = None
        self.inside: nn.Module | None = None

    def remove(self) -> None:
        """Take all hooks off the model."""
        remove(self.handles)

    def only(self, sweeps: Set[int]) -> Record:
        """The record of a step that had one sweep; ValueError with a sentence for any other."""
        if len(sweeps) > 1:
            raise ValueError(ACCUMULATED)
        if not sweeps <= self.records.keys():
            raise ValueError(UNSEEN)
        return self.records[next(iter(sweeps))]

    @contextmanager
    def heard_by(self, listener: Listener) -> Iterator[None]:
        """A forward pass of the root inside is heard by the listener, and by nobody else."""
        self.listener = listener
        try:
            with self.capture.during(Mode.OFF):
                yield
        finally:
            self.listener = self.inside = None

    def is_samplewise(self, module: nn.Module) -> bool:
        """Whether an atom's output for a sample along dimension 0 is made of that sample's input alone."""
        slot, dim = self.capture.slots.get(module), self.capture.batch_dim
        if slot is None:
            return dim == 0 and is_samplewise(module)
        return not (slot.whole or slot.rng or slot.dim)

    # hooks, in the order in which they fire

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A sweep begins."""
        if self.capture.listening:
            self.listener = Record(self, args, kwargs) if torch.is_grad_enabled() else None
            self.inside = None

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self.listener is not None and self.inside is None:
            self.inside = module
            self.listener.before(module, args, kwargs)

    def after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.listener is not None and self.inside is module:
            self.inside = None
            self.listener.after(module, output)

    def leave(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """The sweep ends: what runs later, like the recomputation of a checkpoint, is no part of it."""
        self.listener = None

    def arrived(self, record: Record, visit: Visit, j: int, gradient: Tensor) -> None:
        """A gradient, or a column of the terminal factor, has come back to output j of a call."""
        mode, call = self.capture.mode, visit.call
        if torch.is_grad_enabled() or mode not in (Mode.LOSS, Mode.COLUMN):
            return
        self.records[call.sweep] = record
        if mode is Mode.COLUMN or not (record.sweep and record.sweep.rank):
            leaves = self.capture.leaves_of(call)
            before, kept = leaves[j], visit.first(gradient.detach())
            leaves[j] = (kept if visit.samples is None else kept.clone()) if before is None else before + kept


@dataclass(eq=False)
class Arrival:
    """Tensor hook of one output of one visit. It must not hold that output nor its graph, which hold the hook."""

    record: Record
    visit: Visit
    j: int

    def __call__(self, gradient: Tensor) -> None:
        self.record.recorder.arrived(self.record, self.visit, self.j, gradient)
