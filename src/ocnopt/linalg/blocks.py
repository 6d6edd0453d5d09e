"""Symmetric factors of one side, whole, in blocks, or their diagonal alone, and products of rows with them.

A factor of side n in g groups is one tensor: (g, n, n); in blocks of b rows (g, n, b), where row i holds its part of
the block that it lies in, the last block being smaller where b does not divide n; or (g, n) for the diagonal.
Bases and inverses are kept in the same way. Equal blocks are one batch of every product and decomposition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def width_of(X: Tensor) -> int:
    """Rows of the blocks that X is kept in: 1 for a diagonal, n for all of it."""
    return 1 if X.dim() == 2 else X.shape[-1]


def is_whole(X: Tensor) -> bool:
    """Whether X (g, n, b) is one block."""
    return X.shape[-1] == X.shape[-2]


def shape_of(groups: int, n: int, width: int) -> tuple[int, ...]:
    """Of a factor of side n in blocks of so many rows."""
    return (groups, n) if width == 1 < n else (groups, n, width)


def pieces(X: Tensor) -> list[Tensor]:
    """The blocks of X (g, n, b): all that are alike as (g, k, b, b), then a smaller one as (g, 1, r, r)."""
    n, b = X.shape[1:]
    whole = n - n % b
    alike = [X[:, :whole].unflatten(1, (-1, b))]
    return alike if whole == n else [*alike, X[:, None, whole:, : n - whole]]


def packed(blocks: Sequence[Tensor]) -> Tensor:
    """The inverse of ``pieces``."""
    b = blocks[0].shape[-1]
    return torch.cat([F.pad(P, (0, b - P.shape[-1])).flatten(1, 2) for P in blocks], 1)


def blockwise(function: Callable[..., Tensor], *factors: Tensor) -> Tensor:
    """A function of square matrices (g, ..., n, n), applied to every block of factors that are cut alike."""
    if is_whole(factors[0]):
        return function(*factors)
    return packed([function(*blocks) for blocks in zip(*map(pieces, factors), strict=True)])


def diagonal(X: Tensor) -> Tensor:
    """Of X (g, n, b), shape (g, n); of a diagonal itself."""
    if X.dim() == 2:
        return X
    return torch.cat([P.diagonal(dim1=-2, dim2=-1).flatten(1) for P in pieces(X)], 1)


def gram(X: Tensor, width: int) -> Tensor:
    """Xᵀ X over the rows of X (g, N, n), as much of it as blocks of so many rows hold."""
    n = X.shape[-1]
    if width == n:
        return X.mT @ X
    if width == 1:
        return X.square().sum(1)
    parts = X.split([n - n % width, n % width], -1)
    blocks = [by_block(part, min(width, part.shape[-1])) for part in parts if part.shape[-1]]
    return packed([P.mT @ P for P in blocks])


def by_block(X: Tensor, b: int) -> Tensor:
    """Rows X (..., g, m, k·b) as (..., g, k, m, b)."""
    return X.unflatten(-1, (-1, b)).transpose(-3, -2)


def recut(X: Tensor, width: int) -> Tensor:
    """The factor X in blocks of another width: what lies in both cuts is kept, the rest is zero."""
    old = X.unsqueeze(-1) if X.dim() == 2 else X
    g, n, b = old.shape
    i = torch.arange(n, device=X.device)[:, None]
    j = i // width * width + torch.arange(width, device=X.device)
    at = j - i // b * b
    kept = old.gather(2, at.clamp(0, b - 1).expand(g, n, width)) * ((at >= 0) & (at < b) & (j < n))
    return kept.view(shape_of(g, n, width))


def right(X: Tensor, F: Tensor) -> Tensor:
    """X F for X (..., g, m, n) and F (g, n, b)."""
    return matrices(X, F) if is_whole(F) else times(X, pieces(F))


def right_transposed(X: Tensor, F: Tensor) -> Tensor:
    """X Fᵀ for X (..., g, m, n) and F (g, n, b)."""
    return matrices(X, F.mT) if is_whole(F) else times(X, [P.mT for P in pieces(F)])


def left(F: Tensor, X: Tensor) -> Tensor:
    """F X for F (g, n, b) and X (..., g, n, m)."""
    return matrices(F, X) if is_whole(F) else right_transposed(X.mT, F).mT


def left_transposed(F: Tensor, X: Tensor) -> Tensor:
    """Fᵀ X for F (g, n, b) and X (..., g, n, m)."""
    return matrices(F.mT, X) if is_whole(F) else right(X.mT, F).mT


def matrices(X: Tensor, Y: Tensor) -> Tensor:
    """X Y for (..., g, m, n) and (..., g, n, k); of one batch dimension ``@`` makes the same product, more slowly."""
    return torch.bmm(X, Y) if X.dim() == Y.dim() == 3 else X @ Y


def times(X: Tensor, blocks: Sequence[Tensor]) -> Tensor:
    """X (..., g, m, n) by the block-diagonal matrix of these pieces."""
    parts = X.split([P.shape[1] * P.shape[2] for P in blocks], -1)
    done = [by_block(part, P.shape[-1]) @ P for part, P in zip(parts, blocks, strict=True)]
    return torch.cat([part.transpose(-3, -2).flatten(-2) for part in done], -1)
