"""A stage of the control problem: one player, its metric, and the calls it made in this step.

``Stage`` turns the two primitives of a player into the two the Bellman pass is written in,
summed over calls, positions and columns of the terminal factor before any product of two:

    pull(c)    = Σ_i f_θᵀ Y_i c_i            c (N, r) → parameter-shaped
    resp(d)_i  = Y_iᵀ f_θ d                  d parameter-shaped → (N, r)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from .protocols import Params, Player, masked
from .ranks import ALONE, Ranks
from .trajectory import Call

LARGEST = 2**24
"""Largest number of elements that the products of one stage may hold."""

SMALL = 2**14
"""Numbers of a tensor that is copied rather than multiplied by itself."""


class Metric(Protocol):
    """M_t, the curvature of one stage, as a symmetric positive definite operator."""

    @property
    def contains_own_block(self) -> bool:
        """Whether M already holds the stage's own Gauss-Newton block."""
        ...

    def solve(self, d: Params) -> Params:
        """M⁻¹ d; leading dimensions of d are broadcast."""
        ...

    def half(self, d: Params) -> Params:
        """M^(-1/2) d up to an orthogonal factor: ⟨half(p), half(q)⟩ = pᵀ M⁻¹ q."""
        ...


@dataclass(frozen=True)
class Samples:
    """Which rows of the per-sample quantities belong to which forward sweep.

    rows: per sweep, the slice of 0..N that holds its samples.
    weight: (N,) how many samples of the batch each row stands for, None when each stands for itself.
    """

    rows: dict[int, slice]
    weight: Tensor | None = None

    @property
    def count(self) -> int:
        return max(s.stop for s in self.rows.values())


@dataclass(eq=False)
class Stage:
    """One player in one step.

    gradient: Q_θ of the open loop, p.grad + ℓ_θ, one tensor per parameter.
    previous: the last step taken, where the heavy ball counts it; None otherwise.
    rank: number of columns of the terminal factor.
    ranks: the processes that share the batch.
    seen: for every parameter a mask of what the feedback may steer, None for all of it.
    """

    player: Player
    metric: Metric
    calls: list[Call]
    gradient: Params
    samples: Samples
    rank: int = 1
    previous: Params | None = None
    label: str = ""
    ranks: Ranks = ALONE
    seen: Sequence[Tensor | None] | None = None

    @property
    def precision(self) -> torch.dtype:
        """Of everything that is summed over samples."""
        return torch.promote_types(self.gradient[0].dtype, torch.float32)

    @cached_property
    def pairs(self) -> list[tuple[Call, Tensor, slice]]:
        """Every call with its columns Y (r, B, ...) and its rows."""
        return [(call, call.Y, self.samples.rows[call.sweep]) for call in self.calls]

    @cached_property
    def products(self) -> Params | None:
        """f_θᵀ Y of every column and sample on its own, tensors (r, N, *parameter), where they pay.

        Forming them takes as many operations as one response; then every pull and every response is a product
        with them. None where they are larger than the rows they are made of, or than ``LARGEST``.
        """
        entries = sum(p.numel() for p in self.gradient)
        if entries * self.rank * self.samples.count > LARGEST or not self.are_small(entries):
            return None
        return self.sample_products()

    def are_small(self, entries: int) -> bool:
        """Whether the products of one sample and column, so many numbers, are fewer than those they are made of."""
        if getattr(self.player, "is_matrix", False):
            return entries <= sum(map(self.entries_of_rows, self.pairs))
        return getattr(self.player, "is_diagonal", False)

    def entries_of_rows(self, pair: tuple[Call, Tensor, slice]) -> int:
        """Of the rows z_p and u_p of one sample and column; a convolution's z_p are overlapping patches."""
        call, Y, _ = pair
        outputs = Y[0, 0].numel()
        patches = outputs // self.player.width * self.player.fan_in  # type: ignore[attr-defined]
        return max(call.z[0].numel(), patches) + outputs

    def pull(self, c: Tensor) -> Params:
        """Σ_i f_θᵀ Y_i c_i for weights c (N, r), over the samples of all ranks."""
        return masked(self.ranks.total(*self.local_pull(c)), self.seen)

    def local_pull(self, c: Tensor) -> Params:
        """``pull`` over the samples of this process."""
        if self.samples.weight is not None:
            c = c * self.samples.weight[:, None]
        if self.products is not None:
            return tuple(torch.tensordot(c.mT.to(P.dtype), P, dims=2) for P in self.products)
        pulls = (self.player.pull(call, weighted(Y, pad(c[rows], Y.shape[1]))) for call, Y, rows in self.pairs)
        return add_up(pulls)

    @property
    def visits(self) -> int:
        """How often the player's module was called."""
        return sum(call.count for call in self.calls)

    def resp(self, d: Params) -> Tensor:
        """Y_iᵀ f_θ d for every sample and column: (N, r)."""
        if self.products is not None:
            pairs = zip(self.products, d, strict=True)
            return torch.stack([P.flatten(2) @ x.to(P.dtype).flatten() for P, x in pairs]).sum(0).mT
        return self.responses(d, [Y for _, Y, _ in self.pairs])

    def responses(self, d: Params, cotangents: Sequence[Tensor]) -> Tensor:
        """u_iᵀ f_θ d for cotangents u (r, B, ...) of every call: (N, r)."""
        found = [
            (rows, contracted(U, self.player.tangent(call, d))[: rows.stop - rows.start])
            for (call, _, rows), U in zip(self.pairs, cotangents, strict=True)
        ]
        if len(found) == 1 and len(found[0][1]) == self.samples.count:
            return found[0][1].to(self.precision)
        out = self.gradient[0].new_zeros(self.samples.count, len(cotangents[0]), dtype=self.precision)
        for rows, part in found:
            out[rows] += part
        return out

    def drawn(self, d: Params) -> Tensor | None:
        """u_iᵀ f_θ d for draws u of the output's curvature, E[u uᵀ] = H_i: (N,); None where a call has none."""
        draws = [u.unsqueeze(0) for call in self.calls if (u := call.drawn) is not None]
        return self.responses(d, draws)[:, 0] if len(draws) == len(self.calls) else None

    @property
    def carried(self) -> Tensor | None:
        """resp(Y, previous), (N, r); None where there is no step before."""
        return None if self.previous is None else self.resp(self.previous)

    def solve(self, d: Params) -> Params:
        """M⁻¹ d."""
        return self.metric.solve(d)

    def sample_products(self) -> Params:
        """f_θᵀ Y of every column and sample on its own: tensors (r, N, *parameter)."""
        lead = self.rank, self.samples.count
        if len(self.pairs) == 1 and self.pairs[0][2] == slice(0, lead[1]):
            call, Y, _ = self.pairs[0]
            return tuple(P[:, : lead[1]].to(self.precision) for P in self.player.sample_pull(call, Y))
        total = [p.new_zeros(*lead, *p.shape, dtype=self.precision) for p in self.gradient]
        for call, Y, rows in self.pairs:
            kept = rows.stop - rows.start
            for sum_, part in zip(total, self.player.sample_pull(call, Y), strict=True):
                sum_[:, rows] += part[:, :kept]
        return tuple(total)


def weighted(Y: Tensor, c: Tensor) -> Tensor:
    """Σ_j Y_ij c_ij: Y (r, B, ...), c (B, r) → (B, ...)."""
    if Y.shape[0] == 1:
        return Y[0] * c.to(Y.dtype).view(-1, *(1,) * (Y.dim() - 2))
    return torch.einsum("rb...,br->b...", Y, c.to(Y.dtype))


def contracted(Y: Tensor, h: Tensor) -> Tensor:
    """Y_ijᵀ h_i: Y (r, B, ...), h (B, ...) → (B, r)."""
    h = h.flatten(1)
    if Y.shape[0] == 1:
        return torch.linalg.vecdot(Y[0].flatten(1).to(h.dtype), h).unsqueeze(1)
    return torch.einsum("rbn,bn->br", Y.flatten(2).to(h.dtype), h)


def pad(c: Tensor, batch: int) -> Tensor:
    """Rows of zeros below c (m, r) up to the batch, for players that need the whole batch to act on a part of it."""
    if c.shape[0] == batch:
        return c
    return torch.cat([c, c.new_zeros(batch - c.shape[0], c.shape[1])])


def add_up(terms: Iterator[Params]) -> Params:
    """Σ of parameter-shaped tuples."""
    total = next(terms)
    for term in terms:
        total = plus(total, term)
    return total


def plus(x: Params, y: Params) -> Params:
    """x + y, parameter by parameter."""
    return tuple(torch._foreach_add(x, y))


def less(x: Params, y: Params) -> Params:
    """x − y, parameter by parameter."""
    return tuple(torch._foreach_sub(x, y))


def minus(x: Params) -> Params:
    """−x."""
    return tuple(torch._foreach_neg(x))


def zeros(x: Sequence[Tensor]) -> Params:
    """0, parameter by parameter."""
    return tuple(torch.zeros_like(a) for a in x)


def inner(x: Sequence[Tensor], y: Sequence[Tensor]) -> Tensor:
    """⟨x, y⟩ over all tensors; small ones are laid side by side, since every product is a call."""
    pairs = [*zip(x, y, strict=True)]
    small = [(a.reshape(-1), b.reshape(-1)) for a, b in pairs if a.numel() <= SMALL]
    side_by_side = [tuple(map(torch.cat, zip(*small, strict=True)))] if small else []
    found = [dot(a, b) for a, b in (*side_by_side, *((a, b) for a, b in pairs if a.numel() > SMALL))]
    return found[0] if len(found) == 1 else torch.stack(found).sum()


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ a b over all entries, without forming the products."""
    a, b = a.reshape(-1), b.reshape(-1)
    if a.dtype == b.dtype and a.dtype in (torch.float32, torch.float64):
        return torch.dot(a, b)
    dtype = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    return torch.dot(a.to(dtype), b.to(dtype))
