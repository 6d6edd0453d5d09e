"""Gram matrices of lookups, whose f_θᵀY_i is zero but for the few rows of the table that sample i has read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .stage import Stage


class Touched(NamedTuple):
    """f_θᵀY of all samples and columns by the rows that are read: row ``row[k]`` of sample ``sample[k]``.

    X (r, K, n); sample, row (K,). K is the number of positions; some k may be left over and hold zeros.
    """

    X: Tensor
    sample: Tensor
    row: Tensor


def is_lookup(stage: Stage) -> bool:
    """Whether its player reads rows of one table, in a metric that has a number for every entry."""
    return getattr(stage.player, "is_lookup", False) and hasattr(stage.metric, "half_rows")


def touched(stage: Stage) -> Touched:
    """What every sample has read, over all calls; positions that read the same row are summed."""
    reads = [stage.player.reads(call, Y) for call, Y, _ in stage.pairs]  # type: ignore[attr-defined]
    sample, row, U = [], [], []
    for (z, u), (_, _, where) in zip(reads, stage.pairs, strict=True):
        kept = where.stop - where.start
        numbers = torch.arange(where.start, where.stop, device=z.device)
        sample.append(numbers.repeat_interleave(z.shape[1]))
        row.append(z[:kept].flatten())
        U.append(u[:, :kept].flatten(1, 2).to(stage.precision))
    return summed(torch.cat(sample), torch.cat(row), torch.cat(U, 1), len(stage.gradient[0]))


def summed(sample: Tensor, row: Tensor, U: Tensor, count: int) -> Touched:
    """Entries of the same sample and row added up, without asking the device how many there are."""
    keys, order = (sample * count + row).sort()
    fresh = torch.ones_like(keys)
    fresh[1:] = (keys[1:] != keys[:-1]).to(keys)
    place = fresh.cumsum(0) - 1
    X = torch.zeros_like(U).index_add_(1, place, U[:, order])
    pair = torch.zeros_like(keys).index_copy_(0, place, keys)
    return Touched(X, pair // count, pair % count)


def sample_lookup_gram(stage: Stage) -> Tensor:
    """G of every sample by itself: (N, r, r)."""
    X, sample, row = touched(stage)
    W = stage.metric.half_rows(X, row)  # type: ignore[attr-defined]
    G = W.new_zeros(stage.samples.count, len(W), len(W))
    return G.index_add_(0, sample, torch.einsum("jkn,lkn->kjl", W, W))


def products_of_touched(stage: Stage) -> Tensor:
    """√M⁻¹ f_θᵀY over the rows that any sample has read: (r, N, rows · n)."""
    X, sample, row = touched(stage)
    W = stage.metric.half_rows(X, row)  # type: ignore[attr-defined]
    rows, place = row.unique(return_inverse=True)
    full = W.new_zeros(len(W), stage.samples.count * len(rows), W.shape[-1])
    return full.index_add_(1, sample * len(rows) + place, W).view(len(W), stage.samples.count, -1)
