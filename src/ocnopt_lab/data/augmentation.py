"""Random changes of training images that leave their class as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad


class Augmentation(Protocol):
    """Draws a variant of every sample of a batch."""

    def draw(self, x: Tensor, generator: Generator) -> Tensor:
        """x (B, ...) → (B, ...), with random numbers of `generator` alone."""
        ...


@dataclass(frozen=True)
class CropAndFlip:
    """Images are padded on all sides, cut back to their size at random, and mirrored half of the time.

    He et al. (2016) on CIFAR-10: four pixels at 32. padding: as a share of the height.
    """

    padding: float = 0.125

    def draw(self, x: Tensor, generator: Generator) -> Tensor:
        """x (B, C, H, W), zero where it is padded: the mean of standardised images."""
        batch, _, height, width = x.shape
        by = round(self.padding * height)
        top, left = (torch.randint(2 * by + 1, (batch, 1), generator=generator).to(x.device) for _ in range(2))
        mirrored = torch.rand(batch, 1, generator=generator).to(x.device) < 0.5
        columns = torch.arange(width, device=x.device).expand(batch, width)
        rows = top + torch.arange(height, device=x.device)
        columns = left + torch.where(mirrored, width - 1 - columns, columns)
        padded = pad(x, (by, by, by, by))
        sample = torch.arange(batch, device=x.device)[:, None, None]
        return (
            padded.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()
        )
