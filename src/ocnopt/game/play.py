"""One step of the game: who shares a stage now, in which metric they move, and what they learn for the next."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from torch import nn

from ..core.ranks import ALONE, Ranks
from ..core.stage import Stage
from ..curvature.diagonal import State
from ..curvature.factors import Evidence
from ..linalg.symmetric import Tally
from .alignment import Alignments
from .blocks import Block, check_blocks, find_stages
from .coalition import Side, alone, together
from .cross import Cross, cross_of, has_whole_factors, remember, turn
from .kinds import Deal, Kind


class Game:
    """Coalitions on the blocks of a model.

    kind: what their members know of each other.  alignments: who sits where.  tally: counts fallbacks.
    States are those of a seat's first parameter, by the path of its module.
    """

    def __init__(self, kind: Kind, alignments: Alignments, tally: Tally) -> None:
        self.kind, self.alignments, self.tally = kind, alignments, tally
        blocks = alignments.blocks if kind.cooperates else ()
        self.pairs = [pair for block in blocks for pair in pairs_of(block)]
        self.homes = {path: block.name for block in blocks for branch in block.branches for path in branch}

    def observe(
        self,
        evidence: Mapping[str, Sequence[Evidence]],
        states: Mapping[str, State],
        memory: Callable[[int], float],
        ranks: Ranks = ALONE,
    ) -> None:
        """Update the cross blocks of all pairs that some alignment puts together.

        memory: averaging coefficient after so many updates, the curvature's own.  ranks: that have seen the evidence.
        """
        for u, v in self.pairs:
            if not (u in evidence and v in evidence and states[u].get("updates")):
                continue
            found = cross_of(evidence[u], evidence[v])
            if found is not None:
                found = Cross(*ranks.total(found.A / ranks.size, found.B))
                remember(states[u], v, found, memory(states[u]["updates"]))

    def renew(self, states: Mapping[str, State], step: int) -> None:
        """These players have decomposed their factors: turn the cross blocks between them into their coordinates."""
        for state in states.values():
            state["decomposed"] = step
        for u, v in self.pairs:
            if u in states and v in states and has_whole_factors(states[u]) and has_whole_factors(states[v]):
                turn(states[u], v, states[v], step)

    def home(self, path: str) -> str:
        """The block that a module belongs to, or itself: those of one home decompose their factors together."""
        return self.homes.get(path, path)

    def sides(self, stages: Sequence[Stage], states: Mapping[str, State], damping: float) -> list[Side]:
        """The stages of this step with coalitions in them, each at the place of its first member."""
        by_path = {stage.label: stage for stage in stages}
        coalitions = [[path for path in c if path in by_path] for c in self.alignments.coalitions()]
        lead = {c[0]: c for c in coalitions if len(c) > 1}
        joined = {path for c in lead.values() for path in c}
        sides = []
        for stage in stages:
            if stage.label in lead:
                members = [by_path[path] for path in lead[stage.label]]
                sides.append(self.together(members, [states[member.label] for member in members], damping))
            elif stage.label not in joined:
                sides.append(alone(stage))
        return sides

    def together(self, members: Sequence[Stage], states: Sequence[State], damping: float) -> Side:
        """The members as one stage in the joint metric of this kind of game."""
        return together(members, self.kind.metric(Deal(members, states, damping, self.tally)))

    def state_dict(self) -> dict[str, Any]:
        return self.alignments.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.alignments.load_state_dict(state)


def game_on(
    model: nn.Module, kind: Kind | None, alignment: str | int, blocks: Sequence[Block] | None, seed: int, tally: Tally
) -> Game | None:
    """The game on the given blocks of a model, or on those that can be found; None where none is played.

    Raises ValueError where a block names what the model does not have.
    """
    if kind is None:
        return None
    if blocks is None:
        stages = find_stages(model)
        if stages.note:
            warnings.warn(f"game: {stages.note}", stacklevel=5)
        blocks = stages.blocks
    check_blocks(blocks, model)
    return Game(kind, Alignments(blocks, alignment, seed), tally)


def pairs_of(block: Block) -> Iterator[tuple[str, str]]:
    """Every two modules that some alignment of the block puts at one stage, in the order in which it names them."""
    seated = (coalition for arm in range(block.arms) for coalition in block.aligned(arm))
    yield from dict.fromkeys(pair for coalition in seated for pair in combinations(coalition, 2))
