"""The dataflow read off the autograd graph of one forward pass: for networks whose code no tracer can follow."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node as GradNode
from torch.utils._pytree import tree_leaves

from .dataflow import Draft, Flow
from .twin import copied, entered, has_parameters, is_leaf, undisturbed


@dataclass(eq=False)
class Called:
    """A call of a leaf module: the nodes of the autograd graph that its inputs came from."""

    path: str
    inputs: list[GradNode]


class Recorder:
    """Notes by hooks which module made which node of the autograd graph."""

    def __init__(self, model: nn.Module) -> None:
        self.made: dict[GradNode, Called] = {}
        self.order: list[str] = []
        self.running: list[Called] = []
        for path, module in model.named_modules():
            if is_leaf(module) and has_parameters(module):
                module.register_forward_pre_hook(self.before(path), with_kwargs=True)
                module.register_forward_hook(self.after)

    def before(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.order.append(path)
            self.running.append(Called(path, grad_nodes((args, kwargs))))

        return hook

    def after(self, module: nn.Module, args: Any, output: Any) -> None:
        called = self.running.pop()
        self.made |= {node: called for node in grad_nodes(output) if node not in called.inputs}

    def parents(self, key: GradNode | Called) -> list[GradNode | Called]:
        """What a value is made of; a module call is one step, whatever it did inside."""
        before = key.inputs if isinstance(key, Called) else [node for node, _ in key.next_functions]
        return [self.made.get(node, node) for node in before if node is not None]


def grad_nodes(value: Any) -> list[GradNode]:
    return [x.grad_fn for x in tree_leaves(value) if isinstance(x, Tensor) and x.grad_fn is not None]


def recorded(model: nn.Module, inputs: tuple[Any, ...]) -> Flow:
    """The dataflow of one forward pass, read off the autograd graph; raises what the forward pass raises."""
    with undisturbed():
        twin = copied(model)
        recorder = Recorder(twin)
        given = entered(inputs)
        sources = set(grad_nodes(given))
        ends: list[GradNode | Called] = [recorder.made.get(node, node) for node in grad_nodes(twin(*given))]
    draft = Draft()
    for key in inputs_first(ends, lambda key: [] if key in sources else recorder.parents(key)):
        if key in sources:
            draft.source(key)
        elif isinstance(key, Called):
            draft.add(key, recorder.parents(key), call=key.path)
        else:
            draft.add(key, recorder.parents(key), re.sub(r"Backward\d*$", "", key.name()).lower())
    return draft.finished(ends, recorder.order)


def inputs_first(ends: Iterable[Any], parents: Callable[[Any], list[Any]]) -> Iterator[Any]:
    """All that ``ends`` are made of, each after its own parents."""
    seen: set[Any] = set()
    waiting = [(end, False) for end in ends]
    while waiting:
        key, ready = waiting.pop()
        if ready:
            yield key
        elif key not in seen:
            seen.add(key)
            waiting += [(key, True), *((parent, False) for parent in parents(key))]
