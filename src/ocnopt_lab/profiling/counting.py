"""What a step asks of the machine, whatever its speed: operations, bytes, calls of kernels, waits for the device."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cache
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ocnopt_lab.profiling.formulas import FORMULAS

_EMPTY = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view", "lift_fresh"}
_FILL = {"copy_", "fill_", "zero_", "normal_", "uniform_", "random_", "bernoulli_", "_foreach_copy_", "_foreach_zero_"}
_WAITS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2"}


@dataclass(frozen=True)
class Work:
    """operations: of products, convolutions and decompositions.  traffic: bytes read and written by all calls.

    calls: of kernels, views left out.  waits: calls after which Python knows a number, and had to wait for it.
    """

    operations: float = 0.0
    traffic: float = 0.0
    calls: float = 0.0
    waits: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Work) -> Work:
        return self + other.over(-1)

    def over(self, steps: float) -> Work:
        return Work(*(x / steps for x in astuple(self)))


def total(parts: Mapping[str, Work]) -> Work:
    return sum(parts.values(), Work())


class Traffic(TorchDispatchMode):
    """Bytes, calls and waits of everything that is called under it, and the most bytes alive that it made."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.device = device
        self.bytes, self.calls, self.waits = 0, 0, 0
        self.alive, self.peak = 0, 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        out = func(*args, **given)
        use = use_of(func)
        if use.free:
            return out
        fresh = leaves(out) if use.fresh else []
        self.bytes += use.moved(args, given) + sum(map(size, fresh))
        self.calls += 1
        self.waits += (use.waits or self.fetches(fresh)) and self.there(args)
        for x in fresh:
            self.see(x)
        return out

    def fetches(self, fresh: list[Tensor]) -> bool:
        """Whether a copy on the processor was made."""
        return self.device != "cpu" and any(x.device.type == "cpu" for x in fresh)

    def there(self, args: tuple[Any, ...]) -> bool:
        """Whether anything lies on the device, so that Python waits for it."""
        return any(x.device.type == self.device for x in leaves(args))

    def see(self, x: Tensor) -> None:
        """Memory of its own counts until it is released."""
        storage = x.untyped_storage()
        if (key := id(storage)) in self.known:
            return
        self.known.add(key)
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self.release, key, storage.nbytes()).atexit = False

    def release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size


@dataclass(frozen=True)
class Use:
    """How an operator uses its arguments. reads, writes: names, with their places.  free: a view, or no work."""

    reads: tuple[tuple[int, str], ...]
    writes: tuple[tuple[int, str], ...]
    fresh: bool
    free: bool
    waits: bool

    def moved(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
        """Bytes of the arguments that are read and that are written."""
        used = (args[at] if at < len(args) else kwargs.get(name) for at, name in (*self.reads, *self.writes))
        return sum(size(x) for value in used for x in leaves(value))


@cache
def use_of(func: Any) -> Use:
    """Read off the operator's schema."""
    schema, name = func._schema, func._schema.name.rpartition("::")[2]
    entries = list(enumerate(schema.arguments))
    written = [(at, a.name) for at, a in entries if a.alias_info is not None and a.alias_info.is_write]
    read = [(at, a.name) for at, a in entries if not (a.is_out or (name in _FILL and at == 0))]
    returned = [r.alias_info for r in schema.returns]
    view = bool(returned) and all(info is not None and not info.is_write for info in returned)
    fresh = any(info is None for info in returned)
    return Use(tuple(read), tuple(written), fresh, view or name in _EMPTY, name in _WAITS)


def leaves(value: Any) -> list[Tensor]:
    return [x for x in tree_leaves(value) if isinstance(x, Tensor)]


def size(x: Tensor) -> int:
    """Bytes, entries that are repeated without taking memory counted once."""
    return x.element_size() * prod(n for n, stride in zip(x.shape, x.stride(), strict=True) if stride or n == 0)


class Everywhere:
    """Has torch count for no module by itself: its own tracker holds the tensors of every call until the end."""

    parents: ClassVar = {"Global"}

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


class Counter:
    """A meter of work. steady: bytes of what there is before, parameters and state.  device: whose waits count."""

    def __init__(self, steady: int = 0, device: str = "cpu") -> None:
        self.flops = FlopCounterMode(display=False, custom_mapping=FORMULAS)
        self.flops.mod_tracker = Everywhere()  # type: ignore[assignment]
        self.traffic, self.steady = Traffic(device), steady
        self.parts: dict[str, Work] = {}
        self.before = Work()

    @contextmanager
    def running(self) -> Iterator[None]:
        with self.flops, self.traffic:
            yield

    def charge(self, phase: str) -> None:
        now = self.so_far()
        self.parts[phase] = self.parts.get(phase, Work()) + now - self.before
        self.before = now

    def so_far(self) -> Work:
        traffic = self.traffic
        return Work(self.flops.get_total_flops(), traffic.bytes, traffic.calls, traffic.waits)

    @property
    def held(self) -> int:
        """The most bytes of tensors at once, with what there is before."""
        return self.steady + self.traffic.peak


def steady(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of parameters, buffers and the optimizer's state, what is shared counted once."""
    found = [*model.parameters(), *model.buffers(), *leaves(list(optimizer.state.values()))]
    return sum({id(s): s.nbytes() for s in (x.untyped_storage() for x in found)}.values())
