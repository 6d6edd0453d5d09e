"""A twin of the model to run in its place: nothing that a forward pass does to it reaches the model or the world.

Batch statistics, attributes, hooks of an optimizer and random numbers stay as they are.
"""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.utils._pytree import tree_leaves, tree_map_only

HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


def copied(model: nn.Module) -> nn.Module:
    """A twin: without hooks, and all its parameters ask for gradients, frozen ones too."""
    memo: dict[int, Any] = {id(getattr(m, name)): OrderedDict() for m in model.modules() for name in HOOKS}
    held = (x for m in model.modules() for x in tree_leaves(dict(vars(m))) if isinstance(x, Tensor))
    # An output that a module has kept of its last call cannot be copied by deepcopy.
    memo |= {id(x): x.detach().clone() for x in held if not x.is_leaf}
    twin = copy.deepcopy(model, memo)
    for p in twin.parameters():
        p.requires_grad_(p.is_floating_point() or p.is_complex())
    return twin


def entered(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Copies of the inputs with gradients; as results, not leaves, so that the first layer may work in place."""

    def fresh(x: Tensor) -> Tensor:
        x = x.detach().clone()
        return x.requires_grad_().clone() if x.is_floating_point() or x.is_complex() else x

    return tree_map_only(Tensor, fresh, inputs)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Gradients on, whatever the caller has set; random numbers go on afterwards as if nothing had run.

    Compiled parts run as they were written: their own graphs have forgotten the modules.
    """
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    state = random.getstate()
    try:
        with (
            torch.compiler.set_stance("force_eager"),
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            yield
    finally:
        random.setstate(state)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module is one step: torch's own layers, and others that own parameters and have no parts."""
    torchs = type(module).__module__.startswith("torch.nn")
    owns = is_parametrized(module) or any(True for _ in module.parameters(recurse=False))
    if any(True for _ in module.children()):
        return torchs and owns  # nn.MultiheadAttention; a user's module with a raw parameter is looked into
    return torchs or owns


def has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
