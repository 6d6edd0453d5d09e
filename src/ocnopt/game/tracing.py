"""Reading the dataflow of a network: by symbolic tracing, or else off the autograd graph of one forward pass.

Both ways work on twins of the model, and see only what gradients flow through.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from .dataflow import Draft, Flow
from .recording import recorded
from .twin import copied, entered, has_parameters, is_leaf, undisturbed

UNREADABLE = "The network could not be read, so every layer stays a stage of its own: {}."
STILL = {"shape", "size", "ndim", "dim", "numel", "len", "dtype", "device", "item", "tolist", "detach", "argmax"}
"""What gradients do not flow through, by its name alone."""


def read(model: nn.Module, inputs: tuple[Any, ...] | None) -> tuple[Flow, str]:
    """The dataflow of ``model(*inputs)`` in the model's present mode, and ''; or an empty one, and a sentence why.

    Without inputs only code is read, which is less certain and fails for networks whose code depends on values.
    """
    with suppress(Exception):  # control flow, and whatever else refuses a proxy
        flow = symbolic(model, inputs)
        if flow.order:
            return flow, ""
    if inputs is None:
        return Flow(), UNREADABLE.format(
            "its code cannot be traced without running it; give find_stages an example_input"
        )
    try:
        flow = recorded(model, inputs)
    except Exception as error:
        failed = f"running a copy of it on example_input failed with {type(error).__name__} ({brief(error)})"
        return Flow(), UNREADABLE.format(failed)
    return flow, "" if flow.order else UNREADABLE.format("no gradient leads from its output back to a layer")


def brief(error: Exception) -> str:
    """The first line of a message, without its stop."""
    return (str(error).strip().splitlines() or ["no message"])[0].rstrip(".")


class LeafTracer(fx.Tracer):
    """Traces into everything that is not a leaf."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return is_leaf(m)


class Watch(fx.Interpreter):
    """Runs a traced graph and notes which of its values gradients flow through."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.flowing: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if any(x.requires_grad for x in tree_leaves(value) if isinstance(x, Tensor)):
            self.flowing.add(n)
        return value


def symbolic(model: nn.Module, inputs: tuple[Any, ...] | None) -> Flow:
    """The dataflow by torch.fx; raises whatever fx raises where it cannot trace."""
    with undisturbed():
        twin = copied(model)
        graph = LeafTracer().trace(twin)
        watch = Watch(twin, graph)
        if inputs is None:
            watch.flowing |= {node for node in graph.nodes if op_called(node) not in STILL}
        else:
            watch.run(*entered(inputs))
    draft, latest, order = Draft(), dict[fx.Node, fx.Node](), list[str]()
    for node in graph.nodes:
        parents = [latest.get(i, i) for i in node.all_input_nodes]
        if node.op == "output":
            return draft.finished(parents, order)
        if node.op == "placeholder" and node in watch.flowing:
            draft.source(node)
        elif node.op.startswith("call_") and node in watch.flowing:
            order.append(path_called(node, twin))
            draft.add(node, parents, op_called(node), order[-1])
        if works_in_place(node):
            latest[node.args[0]] = node
    return Flow()


def path_called(node: fx.Node, model: nn.Module) -> str:
    """The path of the module with parameters that made a value, '' where none did."""
    if node.op != "call_module" or not has_parameters(model.get_submodule(str(node.target))):
        return ""
    return str(node.target)


def op_called(node: fx.Node) -> str:
    """The name of the function, method or attribute."""
    target = node.args[1] if node.target is getattr else node.target
    return str(getattr(target, "__name__", target)).strip("_").lower()


def works_in_place(node: fx.Node) -> bool:
    """x.add_(y): whoever reads x from now on reads the sum."""
    return node.op == "call_method" and re.fullmatch(r"\w*[^_]_", str(node.target)) is not None
