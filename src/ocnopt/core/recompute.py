"""Running a module again without leaving a trace: random numbers, attributes, parameters and buffers as they were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only


class Bare(nn.Module):
    """A module without its hooks: the arguments of a call were recorded behind its pre-hooks,
    and a recomputation must not be captured as a call of its own."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.forward(*args, **kwargs)


@contextmanager
def replayed(rng: dict[str, Tensor] | None) -> Iterator[None]:
    """Generators in the states of ``rng``, by device ("cpu", "cuda", "cuda:1"), and afterwards as they were before."""
    states = rng or {"cpu": torch.get_rng_state()}
    before = {device: generator(device)[0]() for device in states}
    try:
        for device, state in states.items():
            generator(device)[1](state)
        yield
    finally:
        for device, state in before.items():
            generator(device)[1](state)


def autocast_state(device: str) -> dict[str, Any]:
    """Arguments of the ``torch.autocast`` in force."""
    dtype, enabled = torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    return {"device_type": device, "dtype": dtype, "enabled": enabled}


def generator(device: str) -> tuple[Any, Any]:
    """The functions that read and write the state of a device's default generator."""
    if device == "cpu":
        return torch.get_rng_state, torch.set_rng_state
    backend = torch.get_device_module(device)
    return partial(backend.get_rng_state, device), partial(backend.set_rng_state, device=device)


@contextmanager
def attributes_kept(module: nn.Module) -> Iterator[None]:
    """What a forward call assigns on its module ends here: else nn.GRU keeps flat weights of a dead graph."""
    before = [(held, dict(held)) for part in module.modules() for held in (vars(part), part._buffers)]
    try:
        yield
    finally:
        for held, attributes in before:
            held.update(attributes)  # first, so that an interrupt here leaves no module without its attributes
            for name in held.keys() - attributes.keys():
                del held[name]


@contextmanager
def tensors_kept(tensors: Iterable[Tensor]) -> Iterator[dict[int, Tensor]]:
    """The values of the tensors by their ids, written back at the end.

    In place: whoever else holds the tensors (flat weights of a GRU, a compiled graph) sees the same.
    """
    kept = [(x, x.detach().clone()) for x in tensors]
    try:
        yield {id(x): value for x, value in kept}
    finally:
        with torch.no_grad():
            for x, value in kept:
                x.copy_(value)


def tensors(tree: Any) -> list[Tensor]:
    """The floating tensors of a tree, which a derivative can run through."""
    leaves = [tree] if isinstance(tree, Tensor) else tree_leaves(tree)
    return [x for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]


def entering(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The floating tensors among the inputs of a call."""
    if not kwargs and all(isinstance(x, Tensor) for x in args):  # as almost always, and much faster
        return [x for x in args if x.is_floating_point()]
    return tensors((args, kwargs))


def cloned(tree: Any) -> Any:
    return tree_map_only(Tensor, Tensor.clone, tree)
