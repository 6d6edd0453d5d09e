"""Any other module: f_θ by automatic differentiation of a recomputed forward call."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.utils._pytree import tree_leaves, tree_map

from ocnopt.core.protocols import Params
from ocnopt.core.recompute import Bare, attributes_kept, replayed
from ocnopt.core.trajectory import Call, Leaves, joined

from .base import ModulePlayer

LARGEST = 2**22
"""Numbers in the cotangents of a batched pass: what runs through the module is as many times larger."""


class GenericPlayer(ModulePlayer):
    """A module with parameters of its own, recomputed as θ ↦ h with everything else held as it was in the call.

    Several outputs are laid side by side as ``trajectory.joined`` does, inside the differentiated function,
    so that cotangents need no taking apart. Nothing is assumed of how the module treats samples.
    """

    whole = True
    draws = True

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__(module, names)
        self._bare = Bare(module)

    def tangent(self, call: Call, d: Params) -> Tensor:
        """By the first way the module's operations allow: each later one asks less of them and costs more."""
        d = tuple(self.by_name(d).values())
        for way in (self._forward_mode, self._reverse_twice):
            with contextlib.suppress(RuntimeError):  # NotImplementedError included
                return way(call, d)
        return self._difference(call, d)

    def pull(self, call: Call, u: Tensor) -> Params:
        θ = self._leaves()
        return gradients(self._recomputed(call, θ), θ, u)

    def sample_pull(self, call: Call, U: Tensor) -> Params:
        """One reverse pass for every sample and column, with all other cotangents zero: exact where samples mix."""
        θ = self._leaves()
        h = self._recomputed(call, θ)
        products = None
        if U.numel() * U.shape[1] <= LARGEST and h.requires_grad:
            with contextlib.suppress(RuntimeError):  # operations that cannot be batched
                products = at_once(h, θ, U)
        return tuple(p.unflatten(0, U.shape[:2]) for p in products or one_by_one(h, θ, U))

    def _forward_mode(self, call: Call, d: Params) -> Tensor:
        """f_θ d carried along. Fused recurrent kernels cannot, nor functions that bring a backward and no jvp."""
        with forward_ad.dual_level():
            θ = tuple(forward_ad.make_dual(p, t) for p, t in zip(self._leaves(), d, strict=True))
            h, dh = forward_ad.unpack_dual(self._recomputed(call, θ))
            return torch.zeros_like(h) if dh is None else dh.detach()

    def _reverse_twice(self, call: Call, d: Params) -> Tensor:
        """f_θ d as the derivative of w ↦ ⟨f_θᵀ w, d⟩. cuDNN's recurrent kernels have no second derivatives.

        Operations that are differentiable once only may drop out without an error. The map is linear
        in w, so its value at w is ⟨w, f_θ d⟩, which tells whether anything is missing.
        """
        θ = self._leaves()
        with torch.backends.cudnn.flags(enabled=False), torch.enable_grad():
            h = self._recomputed(call, θ)
            w = torch.arange(h.numel(), dtype=h.dtype, device=h.device).cos().view_as(h).requires_grad_()
            pulled = gradients(h, θ, w, create_graph=True)
            along = torch.stack([(g * t).sum() for g, t in zip(pulled, d, strict=True)]).sum()
            (dh,) = torch.autograd.grad(along, w)
        if (along - (w * dh).sum()).abs() > 1e-3 * (w * dh).norm():
            raise RuntimeError("An operation in the module is not differentiable twice.")
        return dh

    def _difference(self, call: Call, d: Params) -> Tensor:
        """(h(θ + εd) − h(θ − εd)) / 2ε, with ε where rounding and curvature cost about the same."""
        θ = self._leaves()
        ε = torch.finfo(self.dtype).eps ** (1 / 3) * (1 + length(θ)) / length(d)
        ahead, behind = (tuple(p + s * t for p, t in zip(θ, d, strict=True)) for s in (ε, -ε))
        return ((self._recomputed(call, ahead) - self._recomputed(call, behind)) / (2 * ε)).detach()

    def _leaves(self) -> Params:
        return tuple(p.detach().to(self.dtype, copy=True).requires_grad_() for p in self.parameters)

    @torch.enable_grad()
    def _recomputed(self, call: Call, θ: Params) -> Tensor:
        """h of the call at θ, outputs joined; random numbers as drawn then, module and generators as found now."""
        cast = partial(tree_map, partial(raised, dtype=self.dtype))
        state = {**cast(self._constants()), **dict(zip(self.names, θ, strict=True))}
        with replayed(call.rng), attributes_kept(self.module):
            inner = {f"module.{name}": tensor for name, tensor in state.items()}
            output = functional_call(self._bare, inner, cast(call.args), cast(call.kwargs))
        return joined(recorded(output, call.sizes), call.sizes)

    def _constants(self) -> dict[str, Tensor]:
        """Copies of all other parameters and of the buffers: a forward call may write into them."""
        tensors = (*self.module.named_parameters(), *self.module.named_buffers())
        return {name: tensor.detach().clone() for name, tensor in tensors if name not in self.names}


def gradients(h: Tensor, θ: Params, u: Tensor, **options: bool) -> Params:
    """f_θᵀ u, zeros for parameters that this call did not use."""
    if not h.requires_grad:
        return tuple(torch.zeros_like(p) for p in θ)
    return torch.autograd.grad(h, θ, u.to(h.dtype), allow_unused=True, materialize_grads=True, **options)


def at_once(h: Tensor, θ: Params, U: Tensor) -> Params:
    """f_θᵀ u of every column and sample, (r B, *parameter), in one batched pass."""
    alone = torch.eye(U.shape[1], dtype=U.dtype, device=U.device).view(-1, U.shape[1], *(1,) * (U.dim() - 2))
    return gradients(h, θ, (U.unsqueeze(1) * alone).flatten(0, 1), is_grads_batched=True, retain_graph=True)


def one_by_one(h: Tensor, θ: Params, U: Tensor) -> Params:
    """The same by a pass for each."""
    alone = (one_sample(u, i) for u in U for i in range(U.shape[1]))
    products = [gradients(h, θ, u, retain_graph=True) for u in alone]
    return tuple(torch.stack(p) for p in zip(*products, strict=True))


def one_sample(u: Tensor, i: int) -> Tensor:
    """u (B, ...) with the cotangents of all samples but the i-th set to zero."""
    alone = torch.zeros_like(u)
    alone[i] = u[i]
    return alone


def raised(x: Any, dtype: torch.dtype) -> Any:
    """Floating tensors in the working precision; indices, masks and plain values as they are."""
    return x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x


def recorded(output: Any, sizes: tuple[torch.Size, ...]) -> Leaves:
    """The output tensors that the call recorded: floating ones, and of these perhaps only those with a gradient."""
    floating = [x for x in tree_leaves(output) if isinstance(x, Tensor) and x.is_floating_point()]
    for tensors in (floating, [x for x in floating if x.requires_grad]):
        if tuple(x.shape for x in tensors) == tuple(sizes):
            return [*tensors]
    rest = iter(floating)  # some had a gradient through the inputs alone
    return [next(x for x in rest if x.shape == size) for size in sizes]


def length(tensors: Params) -> Tensor:
    """Euclidean length of all numbers together, held off zero."""
    return torch.stack([t.norm() for t in tensors]).norm().clamp(min=1e-12)
