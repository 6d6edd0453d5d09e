"""The loss at other parameters: a closure called again without a trace, and parameters that may be put back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from .core.capture import Capture, Mode
from .core.hooks import generator_states
from .core.recompute import attributes_kept, replayed, tensors_kept
from .options import require_closure


def again_of(search: Any, closure: Any, capture: Capture, groups: Sequence[Mapping[str, Any]]) -> Again | None:
    """How the closure is called once more, for a search that measures its steps."""
    if not getattr(search, "needs_closure", False):
        return None
    if closure is None:
        require_closure(search, groups)
        return None
    return Again(closure, capture) if getattr(search, "keeps_batch", True) else Unrepeated(closure, capture)


class Again:
    """The closure once more, as if it had not been called: what it leaves behind is put back.

    Every call begins with the random numbers and buffers that the first evaluation of the step has met, so that
    dropout masks and batch statistics are the same at all points that the step compares.
    """

    def __init__(self, closure: Callable[[], Any], capture: Capture) -> None:
        self.closure, self.capture = closure, capture
        self.earlier = capture.reached
        self.rng = generator_states()
        self.buffers = {name: buffer.clone() for name, buffer in capture.model.named_buffers()}

    def __call__(self) -> float:
        model = self.capture.model
        kept = tensors_kept(model.buffers()), gradients_kept(model.parameters())
        with attributes_kept(model), kept[0], kept[1], replayed(self.rng), self.capture.during(Mode.OFF):
            for name, buffer in model.named_buffers():
                if name in self.buffers:
                    buffer.copy_(self.buffers[name])
            with torch.enable_grad(), casts_anew():
                loss = self.closure()
        return number(loss)

    def outputs(self) -> list[Tensor]:
        """What the closure gives to ``optimizer.backward``, call by call."""
        self.capture.overheard = heard = list[Tensor]()
        try:
            self()
        finally:
            self.capture.overheard = None
        return heard

    def require_comparable(self, loss: Any, tried: bool) -> None:
        """Raise ValueError where losses of the closure do not tell a good step from a bad one.

        tried: whether an earlier step has shown already that the closure is deterministic.
        """
        self.require_alone()
        if not tried:
            self.require_same(loss)

    def require_alone(self) -> None:
        """Raise ValueError where gradients from before the closure are a part of the step: it has not dropped them."""
        if self.earlier and self.capture.reached is self.earlier:
            raise ValueError(
                "Gradients from before the closure are a part of this step, and this search measures the closure's loss"
                " alone; accumulate inside of the closure, or choose search='bounded'."
            )

    def require_same(self, loss: Any) -> None:
        """Raise ValueError where the closure finds another loss at the same parameters."""
        again = self()
        if differ(number(loss), again, precision(loss)):
            raise ValueError(
                f"The closure found the losses {number(loss):.9g} and {again:.9g} at the same parameters; this search "
                "compares losses, so draw the batch and all random numbers but torch's own outside of the closure, or "
                "choose search='bounded'."
            )


class Unrepeated(Again):
    """For a search that takes a batch as a sample of many: one that changes from call to call is no error."""

    def require_same(self, loss: Any) -> None:
        pass


@contextmanager
def casts_anew() -> Iterator[None]:
    """An autocast around the whole step keeps casts of parameters, which have moved since or will."""
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.clear_autocast_cache()


@contextmanager
def gradients_kept(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Zeros inside, for closures that expect a tensor there; afterwards those of before."""
    kept = [(p, p.grad) for p in parameters]
    for p, g in kept:
        p.grad = None if g is None else torch.zeros_like(g)
    try:
        yield
    finally:
        for p, g in kept:
            p.grad = g


def number(loss: Any) -> float:
    """The loss that a closure returns."""
    if isinstance(loss, Tensor) and loss.numel() == 1:
        return float(loss.detach())
    if not isinstance(loss, Real):
        raise ValueError(f"The closure returned {shown(loss)}; it must return the loss, one number.")
    return float(loss)


def shown(x: Any) -> str:
    return f"a tensor of shape {tuple(x.shape)}" if isinstance(x, Tensor) else repr(x)


def precision(loss: Any) -> float:
    """The relative rounding error of the loss."""
    return torch.finfo(loss.dtype if isinstance(loss, Tensor) and loss.is_floating_point() else torch.float64).eps


def differ(a: float, b: float, eps: float) -> bool:
    """Whether two losses are farther apart than the order of summation explains."""
    return not abs(a - b) <= eps ** (2 / 3) * max(abs(a), abs(b))


@contextmanager
def tensors_kept_unless(tensors: Iterable[Tensor]) -> Iterator[list[bool]]:
    """The values of the tensors are written back at the end, unless something was put into the list."""
    kept, keep = [(x, x.detach().clone()) for x in tensors], list[bool]()
    try:
        yield keep
    finally:
        if not keep:
            for x, value in kept:
                x.copy_(value)
