"""A small transformer that reads a text character by character."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from ocnopt_lab.arrays import as_they_are
from ocnopt_lab.data import Recipe
from ocnopt_lab.errors import LabError
from ocnopt_lab.problems.networks import Shape, times
from ocnopt_lab.problems.problem import Problem
from ocnopt_lab.tasks import NextCharacter

_CHARACTERS = Recipe(NextCharacter(), as_they_are)


class Block(nn.Module):
    """Causal attention and two dense layers, each behind a layer norm and beside a shortcut (B, T, width)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.project(self.attention(self.norm1(x)))
        return x + self.contract(gelu(self.expand(self.norm2(x))))

    def attention(self, x: Tensor) -> Tensor:
        """What each position takes from itself and those before it, (B, T, width)."""
        q, k, v = self.attend(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


class Transformer(nn.Module):
    """Numbers of characters (B, T) → logits (B, T, characters)."""

    def __init__(self, characters: int, window: int, width: int, blocks: tuple[Block, ...]) -> None:
        super().__init__()
        self.characters, self.positions = nn.Embedding(characters, width), nn.Embedding(window, width)
        self.blocks, self.norm = nn.Sequential(*blocks), nn.LayerNorm(width)
        self.head = nn.Linear(width, characters)

    def forward(self, x: Tensor) -> Tensor:
        # One row of positions for each sample: what has no batch takes no part in the feedback.
        places = torch.arange(x.shape[1], device=x.device).expand_as(x)
        return self.head(self.norm(self.blocks(self.characters(x) + self.positions(places))))


@dataclass(frozen=True)
class Transformers:
    """`depth` blocks of `width` with `heads` heads each."""

    width: int
    depth: int
    heads: int

    def __call__(self, in_shape: Shape, outputs: int) -> nn.Module:
        if len(in_shape) != 1:
            raise LabError(f"A transformer reads windows of characters; one sample has shape {in_shape}.")
        blocks = tuple(Block(self.width, self.heads) for _ in range(self.depth))
        return Transformer(outputs, in_shape[0], self.width, blocks)

    def sized(self, width: float, depth: int) -> Transformers:
        """As many heads, so that each is wider."""
        return Transformers(self.heads * times(self.width // self.heads, width), self.depth * depth, self.heads)


LANGUAGE = (
    Problem(
        *("char-transformer", "2 blocks of width 64, 4 heads", "tinyshakespeare", Transformers(64, 2, 4), 64, 3),
        recipe=_CHARACTERS,
    ),
)
