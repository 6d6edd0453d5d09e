"""The game: layers that share a stage decide together (residual and inception networks)."""

from .blocks import Block, Stages, check_blocks, find_stages

__all__ = ["Block", "Stages", "check_blocks", "find_stages"]
