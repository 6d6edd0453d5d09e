"""What crosses processes under DistributedDataParallel.

It averages p.grad, so the loss is the mean over its processes, each of which holds some of the samples. Whatever is a
sum over samples is summed over ranks: pulls, Kronecker factors, the curvature along a direction, the loss. What
belongs to one sample, its responses and its part of C, a and e, stays where the sample is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Ranks:
    """The processes of a group, seen from one of them; by default there is only this one."""

    size: int = 1
    rank: int = 0
    group: Any = None
    device: torch.device | None = None

    def total(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The sum over ranks of each tensor, the same bits on all of them."""
        if self.size == 1:
            return tensors
        flat = torch.cat([x.flatten() for x in tensors])
        distributed.all_reduce(flat, group=self.group)
        parts = flat.split([x.numel() for x in tensors])
        return tuple(part.view(x.shape).to(x.dtype) for part, x in zip(parts, tensors, strict=True))

    def numbers(self, *values: float) -> list[float]:
        """The sums over ranks of plain numbers."""
        if self.size == 1:
            return [*values]
        return self.total(torch.tensor(values, dtype=torch.float64, device=self.device))[0].tolist()

    def all(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag whether it is set on all ranks."""
        return [count == self.size for count in self.numbers(*flags)]


ALONE = Ranks()


def ranks_of(root: nn.Module) -> Ranks:
    """Those that will average the gradients of a forward pass of the root, which begins now."""
    wrapper = root if isinstance(root, DistributedDataParallel) else DistributedDataParallel._get_active_ddp_module()
    if wrapper is None:
        return ALONE
    group = wrapper.process_group
    device = next(wrapper.parameters()).device
    return Ranks(distributed.get_world_size(group), distributed.get_rank(group), group, device)
