"""What can go wrong in training, each fault a context that lasts for one step of the loop."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import ocnopt

NAN, INF, LARGE = float("nan"), float("inf"), 1e25
INSIDE = str(Path(ocnopt.__file__).parent)
FACTORS = frozenset(("A", "B"))
KEPT = FACTORS | {"S", "U_A", "U_B", "s_A", "s_B", "inverse_A", "inverse_B", "direction", "momentum_buffer"}
"""Tensors of the state that a fault may write into."""


class Deliberate(Exception):
    """Raised by a fault, and caught by whoever trains on."""


@dataclass
class Loop:
    """A network in training, with the places where faults strike.

    on_loss: what becomes of the loss.  on_gradients: called between backward and step.
    struck: whether the fault of this step has done anything.
    """

    model: nn.Module
    optimizer: ocnopt.OCNOpt
    draw: Callable[[int], tuple[Tensor, Tensor]]
    on_loss: Callable[[Tensor], Tensor] = field(default=lambda loss: loss)
    on_gradients: Callable[[], None] = field(default=lambda: None)
    struck: bool = False

    def step(self, number: int) -> None:
        """AdamW's loop."""
        x, y = self.draw(number)

        def closure() -> Tensor:
            self.optimizer.zero_grad()
            loss = self.on_loss(nn.functional.cross_entropy(self.model(x), y))
            loss.backward()
            self.on_gradients()
            return loss

        self.optimizer.step(closure)


Fault = Callable[[Loop, random.Random], AbstractContextManager[None]]


def on_loss(value: float) -> Fault:
    """The loss becomes ``value`` times itself."""

    @contextmanager
    def fault(loop: Loop, rng: random.Random) -> Iterator[None]:
        loop.struck = True
        with mock.patch.object(loop, "on_loss", lambda loss: loss * value):
            yield

    return fault


def on_gradient(value: float) -> Fault:
    """One entry of one gradient becomes ``value``."""

    @contextmanager
    def fault(loop: Loop, rng: random.Random) -> Iterator[None]:
        def spoil() -> None:
            gradient = rng.choice([p.grad for p in loop.model.parameters() if p.grad is not None])
            put(gradient, value, rng)
            loop.struck = True

        with mock.patch.object(loop, "on_gradients", spoil):
            yield

    return fault


def on_activation(value: float) -> Fault:
    """One entry of what one layer returns becomes ``value``."""

    @contextmanager
    def fault(loop: Loop, rng: random.Random) -> Iterator[None]:
        def spoil(module: nn.Module, args: Any, output: Any) -> Any:
            if not isinstance(output, Tensor):
                return None
            spoilt = output.clone()
            put(spoilt, value, rng)
            loop.struck = True
            return spoilt

        with hooked(rng.choice(layers(loop.model)).register_forward_hook(spoil)):
            yield

    return fault


def on_state(value: float, names: frozenset[str], whole: bool = False) -> Fault:
    """An entry, or all, of one of the named tensors of the state becomes ``value``."""

    @contextmanager
    def fault(loop: Loop, rng: random.Random) -> Iterator[None]:
        states = [state for state in loop.optimizer.state.values() if "A" in state or "direction" in state]
        found = [x for state in states for name, x in state.items() if name in names]
        loop.struck = bool(found)
        if found:
            tensor = rng.choice(found)
            if whole:
                tensor.fill_(value)
            else:
                put(tensor, value, rng)
        yield

    return fault


def on_decomposition(name: str, broken: Callable[..., Any]) -> Fault:
    """A function of torch.linalg fails in this step, some of the times it is called."""

    @contextmanager
    def fault(loop: Loop, rng: random.Random) -> Iterator[None]:
        sound = getattr(torch.linalg, name)

        def sometimes(A: Tensor, *args: Any, **kwargs: Any) -> Any:
            if rng.random() < 0.2:
                return sound(A, *args, **kwargs)
            loop.struck = True
            return broken(A)

        with mock.patch.object(torch.linalg, name, sometimes):
            yield

    return fault


def not_converged(A: Tensor) -> Any:
    raise torch.linalg.LinAlgError("linalg.eigh: the algorithm failed to converge")


def indefinite(A: Tensor) -> Any:
    return torch.full_like(A, NAN), torch.ones(A.shape[:-2], dtype=torch.int32)


def not_a_number(A: Tensor) -> Any:
    return torch.full_like(A[..., 0], NAN), torch.full_like(A, NAN)


def out_of_memory(A: Tensor) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def out_of_main_memory(A: Tensor) -> Any:
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory")


@contextmanager
def in_forward(loop: Loop, rng: random.Random) -> Iterator[None]:
    """A layer raises when it is called."""

    def strike(module: nn.Module, args: Any) -> None:
        loop.struck = True
        raise Deliberate

    with hooked(rng.choice(layers(loop.model)).register_forward_pre_hook(strike)):
        yield


@contextmanager
def in_backward(loop: Loop, rng: random.Random) -> Iterator[None]:
    """The backward pass raises on its way through a layer."""

    def strike(gradient: Tensor) -> None:
        loop.struck = True
        raise Deliberate

    def spoil(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(strike)

    with hooked(rng.choice(layers(loop.model)).register_forward_hook(spoil)):
        yield


@contextmanager
def forward_alone(loop: Loop, rng: random.Random) -> Iterator[None]:
    """Forward passes in training mode that no backward pass follows, some of them without gradients."""
    for number in range(rng.randint(1, 4)):
        with torch.set_grad_enabled(rng.random() < 0.7):
            loop.model(loop.draw(1000 + number)[0])
    loop.struck = True
    yield


@contextmanager
def thrown_away(loop: Loop, rng: random.Random) -> Iterator[None]:
    """Gradients of another batch that no step uses."""
    x, y = loop.draw(rng.randrange(1000))
    (nn.functional.cross_entropy(loop.model(x), y) * rng.choice((1.0, NAN))).backward()
    loop.struck = True
    yield


@contextmanager
def interrupted(loop: Loop, rng: random.Random) -> Iterator[None]:
    """KeyboardInterrupt at a line of the library, in the forward pass, the backward pass or the step."""
    left = int(10 ** rng.uniform(0, 3.7))

    def at_line(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(INSIDE):
            return None
        left -= event == "line"
        if left == 0:
            loop.struck = True
            raise KeyboardInterrupt
        return at_line

    before = sys.gettrace()
    sys.settrace(at_line)
    try:
        yield
    finally:
        sys.settrace(before)


FAULTS: dict[str, Fault] = {
    "loss NaN": on_loss(NAN),
    "loss Inf": on_loss(INF),
    "gradient NaN": on_gradient(NAN),
    "gradient Inf": on_gradient(INF),
    "gradient of 1e25": on_gradient(LARGE),
    "activation NaN": on_activation(NAN),
    "activation Inf": on_activation(INF),
    "activation of 1e25": on_activation(LARGE),
    "state NaN": on_state(NAN, KEPT),
    "state Inf": on_state(INF, KEPT),
    "factor singular": on_state(0.0, FACTORS, whole=True),
    "factor indefinite": on_state(-1.0, FACTORS),
    "eigh does not converge": on_decomposition("eigh", not_converged),
    "eigh returns NaN": on_decomposition("eigh", not_a_number),
    "cholesky fails": on_decomposition("cholesky_ex", indefinite),
    "eigh out of memory": on_decomposition("eigh", out_of_memory),
    "cholesky out of memory": on_decomposition("cholesky_ex", out_of_main_memory),
    "exception in forward": in_forward,
    "exception in backward": in_backward,
    "forward without backward": forward_alone,
    "backward without step": thrown_away,
    "interrupted": interrupted,
}


def layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if module is not model]


def put(x: Tensor, value: float, rng: random.Random) -> None:
    """``value`` at a random place."""
    with torch.no_grad():
        x[tuple(rng.randrange(size) for size in x.shape)] = value


@contextmanager
def hooked(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
