"""Training on several processes: what can be spread over them, and what all of them must decide alike."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, distributed, nn

from .core.ranks import Ranks
from .core.rollout import Nonlinear
from .core.value import Coupled, Value
from .gathering import Turn

ELSEWHERE = "Another process did not call its module in this step, or cannot let it take part."


def require_whole(named: Iterable[tuple[str, Tensor]]) -> None:
    """Raise ValueError where a parameter is a part of one: fully_shard and tensor parallelism leave DTensors."""
    for name, p in named:
        if hasattr(p, "placements") or hasattr(p, "_is_flat_param"):
            raise ValueError(
                f"The parameter {name} is sharded over processes, and OCNOpt needs whole ones; wrap the model in "
                "DistributedDataParallel in place of fully_shard or FullyShardedDataParallel."
            )


def require_unsharded(model: nn.Module, gradients: Sequence[Tensor]) -> None:
    """Raise ValueError where the model was sharded after the optimizer was built, as accelerate does it.

    gradients: those that have come back to the optimizer's parameters, which may be the model's no longer.
    """
    if not gradients or hasattr(gradients[0], "placements"):
        require_whole(model.named_parameters())


def require_spreadable(ranks: Ranks, value: Value, rollout: Any, search: Any) -> None:
    """Raise ValueError where a choice needs the whole batch in one process."""
    choices = {
        "value='coupled'": isinstance(value, Coupled),
        "rollout='nonlinear'": rollout is Nonlinear,
        f"search={search!r}": getattr(search, "needs_closure", False),
    }
    found = [choice for choice, made in choices.items() if made]
    if ranks.size > 1 and found:
        raise ValueError(
            f"{found[0]} needs the whole batch in one process, and DistributedDataParallel has spread it over "
            f"{ranks.size}; choose value='per-sample', rollout='linear', and search='bounded' or 'fixed'."
        )


def agree(turns: Sequence[Turn], ranks: Ranks) -> None:
    """Who takes part on all ranks; the others take part on none, since ranks would wait for one another."""
    own = [flag for turn in turns for flag in (bool(turn.calls), bool(turn.witnesses), turn.feedback)]
    flags = iter(ranks.all(own))
    for turn, called, witnessed, feedback in zip(turns, flags, flags, flags, strict=True):
        turn.calls = turn.calls if called else []
        turn.witnesses = turn.witnesses if witnessed else []
        turn.reason = ELSEWHERE if turn.feedback and not feedback else turn.reason
        turn.feedback = feedback


def warn_if_unseen(ranks: Ranks) -> None:
    """Warn where processes train side by side and nobody says that they train together."""
    together = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    if together and ranks.size == 1:
        warnings.warn(
            f"torch.distributed has {distributed.get_world_size()} processes, but the model was not called through "
            "DistributedDataParallel: OCNOpt takes this process to train alone, and its steps differ from the others'.",
            stacklevel=7,
        )
