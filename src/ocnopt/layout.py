"""State of the shapes that training will give it, for tools that fill an optimizer before they load a checkpoint.

torch.distributed.checkpoint reads the names and shapes of a new optimizer's state off one step with zero
gradients, at rate zero and without a forward pass. Such a step lays the state out and does nothing else: zeros
and counts of zero, from which training goes on as from no state at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .curvature import Kronecker
from .gathering import Turn
from .measuring import measure_diagonals
from .updates import Clock, Method, diagonal_of


def asks_for_layout(param_groups: Sequence[dict[str, Any]], gradients: Sequence[Tensor]) -> bool:
    """Whether a first step, before which nothing was captured, has nothing to do but to fill the state."""
    return all(group["lr"] == 0 for group in param_groups) and not any(bool(g.any()) for g in gradients)


def lay_out(turns: Sequence[Turn], method: Method, clock: Clock) -> None:
    """Fill the state of the turns as a step of the method would, each player taking part that can."""
    for turn in turns:
        turn.effective = turn.gradients
        if isinstance(method.curvature, Kronecker) and turn.player is not None and turn.player.is_matrix:
            method.curvature.lay_out(turn.player, turn.state)  # type: ignore[arg-type]
            turn.kronecker = True
        if method.steers(turn):
            turn.step = tuple(torch.zeros_like(p) for p in turn.params)
    measure_diagonals(diagonal_of(method.curvature)[0], [turn for turn in turns if not turn.kronecker])
    method.apply(turns, None, clock)
    for state in (state for turn in turns for state in turn.states if "step" in state):
        state["step"] = 0
    clock.update(method.beginning())


def drop_gaps(state: dict[Any, Any]) -> None:
    """Forget what the loaded state had no value for: torch.distributed.checkpoint leaves empty dicts there."""
    for entries in state.values():
        for name in [name for name, value in entries.items() if value == {}]:
            del entries[name]
