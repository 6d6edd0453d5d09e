"""What is trained: a model, samples, and the loss of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Fit:
    """inputs: what the model is called with, (N, ...) each.  targets: (N, ...).

    loss: of outputs and targets, a mean over samples.  batch: samples of a step for methods that take parts of the
    data, None for all.  seed: of their order.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    targets: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]
    batch: int | None = None
    seed: int = 0

    def forward(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss and outputs of these samples; None for all."""
        inputs = self.inputs if rows is None else tuple(x[rows] for x in self.inputs)
        output = self.model(*inputs)
        return self.loss(output, self.targets if rows is None else self.targets[rows]), output

    def batches(self) -> Iterator[Tensor | None]:
        """Rows of one step after another, without end: every epoch in a new order."""
        if self.batch is None:
            while True:
                yield None
        draws = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.randperm(len(self.targets), generator=draws).split(self.batch)
