"""Coalitions: players that share a stage of the control problem, seen as one player.

θ = (θ_u, θ_v, …) side by side, and with it

    f_θ d = Σ_u f_θu d_u        f_θᵀ y = (f_θuᵀ y, f_θvᵀ y, …)

so that every line of the Bellman pass holds for a coalition as it stands; what makes it a game is the
metric (Chen, Liu, Theodorou, arXiv 2105.03788, section 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise

from torch import Tensor, nn

from ..core.protocols import Params, Player
from ..core.stage import Metric, Stage
from ..core.trajectory import Call


class CoalitionPlayer:
    """Several players as one. Each call belongs to one of them, and moves the parameters of that one alone."""

    def __init__(self, members: Sequence[Player], calls: Sequence[Sequence[Call]]) -> None:
        self.members = tuple(members)
        self.owner = {id(call): j for j, own in enumerate(calls) for call in own}
        self.names = tuple(f"{j}.{name}" for j, member in enumerate(members) for name in member.names)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        return tuple(chain.from_iterable(member.modules for member in self.members))

    @property
    def parameters(self) -> Params:
        return side_by_side(member.parameters for member in self.members)

    def divided(self, d: Params) -> list[Params]:
        """One part for each member."""
        return divided(d, [len(member.names) for member in self.members])

    def tangent(self, call: Call, d: Params) -> Tensor:
        j = self.owner[id(call)]
        return self.members[j].tangent(call, self.divided(d)[j])

    def pull(self, call: Call, u: Tensor) -> Params:
        j = self.owner[id(call)]
        own = self.members[j].pull(call, u)
        # A zero without dimensions adds to any shape, and the owners of the other calls bring theirs.
        return side_by_side(
            own if k == j else (own[0].new_zeros(()),) * len(m.names) for k, m in enumerate(self.members)
        )

    def sample_pull(self, call: Call, U: Tensor) -> Params:
        j = self.owner[id(call)]
        own = self.members[j].sample_pull(call, U)
        lead = own[0].shape[:2]
        return side_by_side(
            own if k == j else tuple(own[0].new_zeros(()).expand(*lead, *p.shape) for p in m.parameters)
            for k, m in enumerate(self.members)
        )


@dataclass(frozen=True)
class Side:
    """Those who decide together: the stage that the passes see, and the members' own stages that it joins."""

    stage: Stage
    members: tuple[Stage, ...]

    def divided(self, d: Sequence[Tensor]) -> list[Params]:
        """A tuple over all parameters of the stage as one part for each member."""
        return divided(d, [len(member.gradient) for member in self.members])


def alone(stage: Stage) -> Side:
    """A coalition of one is that player itself."""
    return Side(stage, (stage,))


def together(members: Sequence[Stage], metric: Metric) -> Side:
    """The members as one stage in a joint metric."""
    player = CoalitionPlayer([m.player for m in members], [m.calls for m in members])
    stage = Stage(
        player,
        metric,
        [call for member in members for call in member.calls],
        side_by_side(member.gradient for member in members),
        members[0].samples,
        members[0].rank,
        previous_of(members),
        " + ".join(member.label for member in members),
        members[0].ranks,
    )
    return Side(stage, tuple(members))


def previous_of(members: Sequence[Stage]) -> Params | None:
    """The last step of all; one that has taken none yet adds zeros."""
    if all(member.previous is None for member in members):
        return None
    return side_by_side(m.previous or tuple(g.new_zeros(()).expand_as(g) for g in m.gradient) for m in members)


def side_by_side(parts: Iterable[Sequence[Tensor]]) -> Params:
    return tuple(chain.from_iterable(parts))


def divided(d: Sequence[Tensor], lengths: Sequence[int]) -> list[Params]:
    """d cut into consecutive parts of these lengths."""
    ends = pairwise(accumulate(lengths, initial=0))
    return [tuple(d[start:stop]) for start, stop in ends]
