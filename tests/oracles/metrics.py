"""Metrics as dense matrices (p, p) over a layer's parameters, flattened one after the other.

A matrix layer's sample product is Σ u zᵀ over its rows: z from ``input_rows``, u from ``output_rows``, one pair for
every call, position and group.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def calls_of(net: nn.Module, layer: nn.Module, x: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The net's output, and (input, output) of every call of the layer, attached to the graph."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = layer.register_forward_hook(lambda module, args, h: seen.append((args[0], h)))
    try:
        return net(x), seen
    finally:
        handle.remove()


def input_rows(layer: nn.Module, z: Tensor) -> Tensor:
    """Rows that meet [W b], (g, B, P, n_in)."""
    if isinstance(layer, nn.Linear):
        rows = z.reshape(1, len(z), -1, z.shape[-1])
    else:
        rows = unfolded(layer, z).unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2)
    ones = rows.new_ones(*rows.shape[:-1], 1)
    return rows if layer.bias is None else torch.cat([rows, ones], -1)


def unfolded(layer: nn.Module, z: Tensor) -> Tensor:
    """Patches (B, c·k, P) of a convolution with zeros for padding."""
    lift = (1,) * (2 - len(layer.kernel_size))
    none = (0,) * len(lift)
    z = z.unsqueeze(2) if lift else z
    return F.unfold(z, lift + layer.kernel_size, lift + layer.dilation, none + layer.padding, lift + layer.stride)


def output_rows(layer: nn.Module, u: Tensor) -> Tensor:
    """Rows u, (g, B, P, n_out), of a cotangent shaped like the output."""
    if isinstance(layer, nn.Linear):
        return u.reshape(1, len(u), -1, u.shape[-1])
    return u.flatten(2).unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2)


def places(layer: nn.Module) -> Tensor:
    """(g, n_out, n_in): where each entry of [W b] stands among the flattened parameters."""
    groups, W = getattr(layer, "groups", 1), layer.weight
    index = torch.arange(W.numel()).view(groups, W.shape[0] // groups, -1)
    if layer.bias is None:
        return index
    return torch.cat([index, torch.arange(W.shape[0]).view(groups, -1, 1) + W.numel()], -1)


def factors(net: nn.Module, layer: nn.Module, x: Tensor, U: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """A = mean z zᵀ and B = weight·Σ u uᵀ over calls, positions and the columns U (r, B, ...); (g, n, n)."""
    output, calls = calls_of(net, layer, x)
    Z = [input_rows(layer, z) for z, _ in calls]
    count = sum(rows.shape[1] * rows.shape[2] for rows in Z)
    A = sum(torch.einsum("gbpi,gbpj->gij", rows, rows) for rows in Z) / count
    B = torch.zeros_like(A[:, :1, :1])
    for column in U:
        for u in torch.autograd.grad(output, [h for _, h in calls], column, retain_graph=True):
            rows = output_rows(layer, u)
            B = B + weight * torch.einsum("gbpi,gbpj->gij", rows, rows)
    return A.detach(), B


def cut(A: Tensor, rows: int) -> Tensor:
    """A (g, n, n) with zeros outside of blocks of so many rows."""
    block = torch.arange(A.shape[-1]) // rows
    return A * (block[:, None] == block)


def scattered(layer: nn.Module, blocks: Sequence[Tensor]) -> Tensor:
    """(p, p) from one block per group over the entries of [W b] row by row."""
    index = places(layer)
    M = blocks[0].new_zeros(index.numel(), index.numel())
    for at, block in zip(index, blocks, strict=True):
        M[at.flatten()[:, None], at.flatten()] = block
    return M


def kfac(layer: nn.Module, A: Tensor, B: Tensor, damping: float, lr: float) -> Tensor:
    """(A + π√λ I) ⊗ (B + √λ/π I)/lr; u zᵀ is row-major, so B comes first in the product."""
    blocks = []
    for a, b in zip(A, B, strict=True):
        pi = ((a.trace() / len(a)) / (b.trace() / len(b))).sqrt()
        damped_a = a + pi * damping**0.5 * torch.eye(len(a), dtype=a.dtype)
        damped_b = b + damping**0.5 / pi * torch.eye(len(b), dtype=b.dtype)
        blocks.append(torch.kron(damped_b, damped_a) / lr)
    return scattered(layer, blocks)


def young_ekfac(layer: nn.Module, A: Tensor, B: Tensor, damping: float, lr: float) -> Tensor:
    """(A ⊗ B + λ I)/lr: before its eigenvalues have been corrected, EKFAC is the plain product, damped as a whole."""
    blocks = [torch.kron(b, a) for a, b in zip(A, B, strict=True)]
    return scattered(layer, [(block + damping * torch.eye(len(block), dtype=block.dtype)) / lr for block in blocks])


def diagonal(m: Tensor, lr: float) -> Tensor:
    return torch.diag(m / lr)
