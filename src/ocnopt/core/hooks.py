"""Module hooks that keep nothing alive, and what they need to know of the world around a call."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def remove(handles: list[Any]) -> None:
    while handles:
        handles.pop().remove()


class Hook:
    """A module hook that holds its owner, a ``Capture`` or the like, weakly and is inert once copied or pickled.

    torch.compile breaks its graph here: traced into it, hooks on tensors would be lost without a word.
    """

    def __init__(self, capture: Any = None, method: Callable[..., Any] | None = None) -> None:
        self.capture = (lambda: None) if capture is None else weakref.ref(capture)
        self.method = method

    def __call__(self, *args: Any) -> Any:
        # What is disabled takes a wrapper of dynamo's, a dozen microseconds for each module and step.
        return self.untraced(*args) if torch.compiler.is_compiling() else self.called(*args)

    @torch.compiler.disable
    def untraced(self, *args: Any) -> Any:
        return self.called(*args)

    def called(self, *args: Any) -> Any:
        capture = self.capture()
        return None if capture is None or self.method is None else self.method(capture, *args)

    def __deepcopy__(self, memo: Any) -> Hook:
        return Hook()

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()

    @property
    def inert(self) -> bool:
        """Whether nobody listens any more."""
        return self.capture() is None


def remove_inert(model: nn.Module) -> None:
    """Take off the hooks that a copied or unpickled model has kept of its former life."""
    for module in model.modules():
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for key in [key for key, hook in hooks.items() if isinstance(hook, Hook) and hook.inert]:
                del hooks[key]
                for kept in (module._forward_hooks_with_kwargs, module._forward_pre_hooks_with_kwargs):
                    kept.pop(key, None)


def forget_compiled() -> None:
    """Have torch.compile make its code anew: it does not look for hooks that came after the first call.

    That of other models goes as well, and is made again when they are called: a module does not know whether it was
    compiled by torch.compile(module).
    """
    torch.compiler.reset()


def generator_states() -> dict[str, Tensor]:
    """States of the default generators, by device type."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return states
