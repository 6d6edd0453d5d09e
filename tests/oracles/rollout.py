"""The nonlinear roll-out by its definition: dense Jacobians and plain loops along the traced graph, in float64.

Shapes: N samples, r columns, everything of a call flattened. Gains and metrics are taken from the library, where
other tests compare them; what is done with them here uses nothing of ``ocnopt.core``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd.functional import jacobian
from torch.func import functional_call


@dataclass
class Gain:
    """k (p,), C (N, r, r) or coupled (N·r, N·r), the solve of M for flat vectors, the previous step (p,) or None."""

    k: Tensor
    C: Tensor
    solve: Callable[[Tensor], Tensor]
    own_block: bool
    previous: Tensor | None


@dataclass
class Call:
    """A leaf call of the old pass: which module, generator state, z, y, and Y (r, *y)."""

    node: fx.Node
    name: str
    rng: Tensor
    z: Tensor
    y: Tensor
    Y: Tensor = field(default_factory=lambda: torch.zeros(0))


@dataclass
class Pass:
    """The network as it was when the old pass ran: graph, input, its calls in order."""

    net: nn.Module
    graph: fx.GraphModule
    x: Tensor
    rng: Tensor
    calls: list[Call]


def traced(net: nn.Module, x: Tensor, rng: Tensor, columns: Tensor) -> Pass:
    """The old pass with Y at every call. columns: U at the output, (r, N, K)."""
    net = copy.deepcopy(net)
    graph = fx.symbolic_trace(net)
    calls: list[Call] = []
    torch.set_rng_state(rng)

    def note(node: fx.Node, z: Tensor) -> Tensor:
        call = Call(node, str(node.target), torch.get_rng_state(), z.clone(), torch.empty(0))
        calls.append(call)
        call.y = leaf(graph, call.name, z).clone()
        return call.y.clone()

    walk(graph, x, note)
    old = Pass(net, graph, x, rng, calls)
    for call in calls:
        J = jacobian(lambda y, call=call: tail(old, call, y), call.y)
        call.Y = torch.einsum("rnk,nk...->r...", columns, J)
    return old


def walk(graph: fx.GraphModule, x: Tensor, visit: Callable[[fx.Node, Tensor], Tensor]) -> Tensor:
    """The forward pass, with every module call made by ``visit``."""
    env: dict[fx.Node, Any] = {}
    for node in graph.graph.nodes:
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: env[n])
        if node.op == "placeholder":
            env[node] = x.clone()
        elif node.op == "call_module":
            env[node] = visit(node, args[0])
        elif node.op == "call_function":
            env[node] = node.target(*args, **kwargs)
        elif node.op == "call_method":
            env[node] = getattr(args[0], node.target)(*args[1:], **kwargs)
        elif node.op == "output":
            return args[0]
    raise AssertionError("The graph has no output.")


def leaf(graph: nn.Module, name: str, z: Tensor, θ: dict[str, Tensor] | None = None) -> Tensor:
    """One module of the network at its own or at given parameters; batch statistics are computed, not stored."""
    module = copy.deepcopy(graph.get_submodule(name))
    return functional_call(module, θ or {}, (z.clone(),))


def tail(old: Pass, start: Call, y: Tensor) -> Tensor:
    """The network's output as a function of what the call ``start`` returns."""

    def visit(node: fx.Node, z: Tensor) -> Tensor:
        call = next(call for call in old.calls if call.node is node)
        torch.set_rng_state(call.rng)
        return y.clone() if call is start else leaf(old.graph, call.name, z)

    return walk(old.graph, old.x, visit)


def parameters(old: Pass, name: str) -> dict[str, Tensor]:
    return {key: p.detach() for key, p in old.graph.get_submodule(name).named_parameters()}


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.reshape(-1) for x in tensors])


def unflat(vector: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = vector.split([p.numel() for p in like.values()])
    return {name: part.view_as(p) for (name, p), part in zip(like.items(), parts, strict=True)}


def sensitivities(old: Pass, name: str) -> Tensor:
    """W (N, r, p): Y_iᵀ f_θ summed over the calls of the module; samples that mix are told apart by their outputs."""
    θ = parameters(old, name)
    total: Tensor | float = 0.0
    for call in old.calls:
        if call.name == name:
            rng = call.rng

            def output(vector: Tensor, call: Call = call, rng: Tensor = rng) -> Tensor:
                torch.set_rng_state(rng)
                return leaf(old.graph, name, call.z, unflat(vector, θ))

            J = jacobian(output, flat(list(θ.values())))
            total = total + torch.einsum("rnk,nkp->nrp", call.Y.flatten(2), J.flatten(1, -2))
    assert isinstance(total, Tensor)
    return total


def remainder(old: Pass, call: Call, z: Tensor, y: Tensor) -> Tensor:
    """Y_sᵀ[ŷ_s − y_s − J_s(ẑ_s − z_s)], (N, r), the last product as (J_sᵀY_s)ᵀ(ẑ_s − z_s) row by row."""

    def output(z: Tensor) -> Tensor:
        torch.set_rng_state(call.rng)
        return leaf(old.graph, call.name, z)

    J = jacobian(output, call.z)
    JY = torch.tensordot(call.Y, J, dims=call.y.dim())
    out = torch.zeros(len(call.y), len(call.Y), dtype=y.dtype)
    for i in range(len(out)):
        for j in range(out.shape[1]):
            out[i, j] = torch.sum(call.Y[j, i] * (y - call.y)[i]) - torch.sum(JY[j, i] * (z - call.z)[i])
    return out


def nonlinear(old: Pass, gains: dict[str, Gain], fresh: float, ball: float, weight: Tensor) -> dict[str, Tensor]:
    """δθ (p,) of every player. weight (m,): how many samples each of the m that the feedback sees stands for."""
    steps: dict[str, Tensor] = {}
    moved: dict[str, dict[str, Tensor]] = {}
    e = torch.zeros(len(old.x), next(iter(old.calls)).Y.shape[0], dtype=old.x.dtype)
    calls = iter(old.calls)

    def visit(node: fx.Node, z: Tensor) -> Tensor:
        nonlocal e
        call, z = next(calls), z.clone()
        if call.name in gains and call.name not in steps:
            steps[call.name] = policy(old, call.name, gains[call.name], e, fresh, ball, weight)
            previous = gains[call.name].previous
            whole = fresh * steps[call.name] + (0.0 if previous is None else ball * previous)
            θ = parameters(old, call.name)
            moved[call.name] = unflat(flat(list(θ.values())) + whole, θ)
        torch.set_rng_state(call.rng)
        y = leaf(old.graph, call.name, z, moved.get(call.name))
        e = e + remainder(old, call, z, y)
        return y

    walk(old.graph, old.x, visit)
    return steps


def policy(old: Pass, name: str, gain: Gain, e: Tensor, fresh: float, ball: float, weight: Tensor) -> Tensor:
    """δθ = k − M⁻¹ pull(Y C (e + resp(Y, k))), the response left out where M holds the layer's own block."""
    m = len(weight)
    W, e = sensitivities(old, name)[:m], e[:m]
    whole = fresh * gain.k + (0.0 if gain.previous is None else ball * gain.previous)
    deviation = e if gain.own_block else e + W @ whole
    if gain.C.dim() == 2:
        c = (gain.C @ deviation.flatten()).view_as(deviation)
    else:
        c = torch.einsum("nrs,ns->nr", gain.C, deviation)
    return gain.k - gain.solve(torch.einsum("nrp,nr,n->p", W, c, weight))
