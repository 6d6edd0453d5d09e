"""What crosses processes under DistributedDataParallel.

It averages p.grad, so the loss is the mean over its processes, each of which holds some of the samples. Whatever is a
sum over samples is summed over ranks: pulls, Kronecker factors, the curvature along a direction, the loss. What
belongs to one sample, its responses and its part of C, a and e, stays where the sample is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from ..linalg.symmetric import Tally

INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Of the size of a number in bytes."""


@dataclass(frozen=True)
class Ranks:
    """The processes of a group, seen from one of them; by default there is only this one.

    tally: counts what is sent, in collectives and in elements of each rank.
    """

    size: int = 1
    rank: int = 0
    group: Any = None
    device: torch.device | None = None
    tally: Tally = field(default_factory=Tally, compare=False)

    def total(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The sum over ranks of each tensor, the same bits on all of them."""
        if self.size == 1:
            return tensors
        flat = torch.cat([x.flatten() for x in tensors])
        distributed.all_reduce(flat, group=self.group)
        self.tally["collectives"] += 1
        self.tally["elements communicated"] += flat.numel()
        parts = flat.split([x.numel() for x in tensors])
        return tuple(part.view(x.shape).to(x.dtype) for part, x in zip(parts, tensors, strict=True))

    def spread(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Copies of each tensor as its owner has it; all other ranks bring zeros of its shape.

        They are added as integers: as floating-point numbers −0 + 0 would lose its sign.
        """
        found = self.total(*(x.contiguous().view(INTEGERS[x.element_size()]) for x in tensors))
        # One by one: a view into the packet would keep all of it, and may be aligned otherwise than other tensors.
        return tuple(y.clone().view(x.dtype) for x, y in zip(tensors, found, strict=True))

    def numbers(self, *values: float) -> list[float]:
        """The sums over ranks of plain numbers."""
        if self.size == 1:
            return [*values]
        return self.total(torch.tensor(values, dtype=torch.float64, device=self.device))[0].tolist()

    def all(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag whether it is set on all ranks."""
        return [count == self.size for count in self.numbers(*flags)]


ALONE = Ranks()


def ranks_of(root: nn.Module, tally: Tally) -> Ranks:
    """Those that will average the gradients of a forward pass of the root, which begins now.

    Raises ValueError under a Join that lets some of them run out of batches before the others.
    """
    wrapper = root if isinstance(root, DistributedDataParallel) else DistributedDataParallel._get_active_ddp_module()
    if wrapper is None:
        return ALONE
    require_even(wrapper)
    group = wrapper.process_group
    device = next(wrapper.parameters()).device
    return Ranks(distributed.get_world_size(group), distributed.get_rank(group), group, device, tally)


def require_even(wrapper: DistributedDataParallel) -> None:
    """Raise ValueError where processes that have no batch left would be waited for without end."""
    join = wrapper._join_config
    if join.enable and not join.throw_on_early_termination:
        raise ValueError(
            "Join lets processes run out of batches one by one, and OCNOpt needs all of them in every step; give all "
            "the same number of batches, as DistributedSampler does, or pass throw_on_early_termination=True to Join."
        )
