"""Alignments: at which stage of its block a shortcut's layers sit, fixed or chosen by a bandit as training goes.

A block can be cut into stages in several ways (DESIGN, section 2, after arXiv 2105.03788, section 4). Each way is an
arm of the block's own bandit. An arm is played for a period of steps, and its reward is the improvement
of the mean loss over the period before, set against the usual improvement:

    r = ½ + ¼ (x − m)/s, held in [0, 1];   m, s: running mean and mean deviation of x over all periods
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .bandit import Bandit
from .blocks import Block

NAMED = ("bandit", "first", "last")


def require_alignment(choice: Any) -> None:
    """Raise ValueError unless the choice is a name or a number of an alignment."""
    number = isinstance(choice, int) and not isinstance(choice, bool) and choice >= 0
    if not number and choice not in NAMED:
        names = ", ".join(map(repr, NAMED))
        raise ValueError(f"alignment={choice!r} is not known; choose {names}, or the number of an alignment from 0 on.")


def fixed_arm(block: Block, choice: str | int) -> int:
    """The arm that a fixed choice means for this block; numbers beyond its last alignment mean the last."""
    if isinstance(choice, int):
        return min(choice, block.arms - 1)
    return 0 if choice == "first" else block.arms - 1


@dataclass
class Improvement:
    """Rewards in [0, 1] from the mean losses of successive periods.

    last: mean loss of the last period.  mean, deviation: m and s.  periods: how many improvements they have seen.
    """

    memory: float = 0.9
    last: float | None = None
    mean: float = 0.0
    deviation: float = 0.0
    periods: int = 0

    def reward(self, loss: float) -> float | None:
        """Of the period with this mean loss; None for the first, which improves on nothing."""
        before, self.last = self.last, loss
        if before is None:
            return None
        x = before - loss
        self.periods += 1
        # The first averages weigh all periods alike.
        new = max(1 - self.memory, 1 / self.periods)
        self.mean += new * (x - self.mean)
        self.deviation += new * (abs(x - self.mean) - self.deviation)
        if self.deviation == 0:
            return 0.5
        return min(1.0, max(0.0, 0.5 + 0.25 * (x - self.mean) / self.deviation))

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last, "mean": self.mean, "deviation": self.deviation, "periods": self.periods}


class Alignments:
    """The arm of every block: fixed, or a bandit's for so many steps at a time.

    choice: "bandit", "first", "last", or the number of an alignment.
    """

    def __init__(self, blocks: Sequence[Block], choice: str | int, seed: int = 0, period: int = 10) -> None:
        require_alignment(choice)
        self.blocks, self.choice, self.period = tuple(blocks), choice, period
        # Blocks of one seed must not draw alike.
        self.bandits = [Bandit(block.arms, seed + 7919 * j) for j, block in enumerate(self.blocks)]
        self.improvement = Improvement()
        self.step, self.loss, self.seen = 0, 0.0, 0
        self.arms = [0 if choice == "bandit" else fixed_arm(block, choice) for block in self.blocks]
        if choice == "bandit":
            self.draw()

    def draw(self) -> None:
        self.arms = [bandit.draw() for bandit in self.bandits]

    def coalitions(self) -> list[tuple[str, ...]]:
        """Paths of the modules that share a stage now; the first is the one that says where."""
        pairs = zip(self.blocks, self.arms, strict=True)
        return [coalition for block, arm in pairs for coalition in block.aligned(arm)]

    def observe(self, loss: float | None) -> None:
        """A step was taken from this loss (None: unknown); at the end of a period, reward and choose anew."""
        if self.choice != "bandit":
            return
        self.step += 1
        if loss is not None and math.isfinite(loss):
            self.loss, self.seen = self.loss + loss, self.seen + 1
        if self.step % self.period == 0:
            self.close_period()

    def close_period(self) -> None:
        """Pay every bandit; where no loss was seen nobody is paid, and the play counts for nothing."""
        paid = self.improvement.reward(self.loss / self.seen) if self.seen else None
        if paid is not None:
            for bandit in self.bandits:
                bandit.reward(paid)
        self.loss, self.seen = 0.0, 0
        self.draw()

    def decisions(self) -> dict[str, list[tuple[int, int, float]]]:
        """For every block: (first step of a period, counted from 1; arm; reward) of each rewarded period."""
        pairs = zip(self.blocks, self.bandits, strict=True)
        return {
            block.name: [((draw - 1) * self.period + 1, arm, paid) for draw, arm, paid in bandit.log]
            for block, bandit in pairs
        }

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts."""
        return {
            "step": self.step,
            "loss": self.loss,
            "seen": self.seen,
            "arms": [*self.arms],
            "improvement": self.improvement.state_dict(),
            "bandits": {b.name: bandit.state_dict() for b, bandit in zip(self.blocks, self.bandits, strict=True)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the state was taken. ValueError where it belongs to other blocks."""
        names = [block.name for block in self.blocks]
        if list(state["bandits"]) != names:
            raise ValueError(f"The state is of a game on the blocks {', '.join(state['bandits'])}, not {names}.")
        self.step, self.loss, self.seen = state["step"], state["loss"], state["seen"]
        self.improvement = Improvement(**state["improvement"])
        for bandit, name in zip(self.bandits, names, strict=True):
            bandit.load_state_dict(state["bandits"][name])
        if self.choice == "bandit":
            self.arms = [*state["arms"]]
