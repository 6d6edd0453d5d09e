"""Decompositions spread over ranks: each is made by one of them, and all take the same bits.

All ranks hold the same factors, so each could decompose them all, and does where that takes no longer than sending
the results. Either way they agree on what has failed: memory may be exhausted on one of them alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from ..core.ranks import Ranks
from ..linalg.symmetric import EIGH_LADDER, DecompositionError, MemoryExhausted, Tally
from .kronecker import SIDES, Kronecker, State

FAILURES = (DecompositionError.count, MemoryExhausted.count)
EVENTS = (*(rung for rung, _ in EIGH_LADDER if rung), "cholesky in double", "cholesky with jitter", *FAILURES)
"""What may come of one decomposition, under the names that the tally counts."""

ELEMENT = 5e-9
"""Seconds in which an element of a result reaches all ranks: what gloo was measured to take between processes of one
machine (docs/scaling.md), and about what a link of 10 Gbit/s takes. With two ranks, eigenbases are then worth sending
from n = 67 on and inverses from n = 250 on; with many, from half of that."""

PACKET = 2**24
"""Elements that are sent at once, unless a single result is larger: at most 64 MiB beside the results in float32."""


@dataclass(eq=False)
class Side:
    """One side of one player's factors. found: its decomposition, where this rank has made one."""

    state: State
    name: str
    found: State | None = None
    events: Tally = field(default_factory=Tally)

    @property
    def failed(self) -> bool:
        return any(self.events[name] for name in FAILURES)


@dataclass(frozen=True)
class Splitting:
    """The decompositions of one step. tally: counts fallbacks, the same ones on all ranks."""

    curvature: Kronecker
    tally: Tally
    ranks: Ranks

    def renew(self, states: Sequence[State], damping: float) -> None:
        """Decompose the factors of all these players anew; where it fails on any rank, the old ones stay on all."""
        if self.ranks.size == 1 or not states:
            for state in states:
                self.curvature.renew(state, damping, self.tally)
            return
        pairs = [tuple(Side(state, name) for name in SIDES) for state in states]
        sides = [*chain(*pairs)]
        owners = self.owners(sides)
        for j, side in enumerate(sides):
            if owners is None or owners[j] == self.ranks.rank:
                self.decompose(side, damping)
        self.agree(sides)
        sound = [pair for pair in pairs if not self.count(*pair)]
        if owners is not None:
            self.exchange([*chain(*sound)])
        for A, B in sound:
            self.curvature.adopt(A.state, {**(A.found or {}), **(B.found or {})}, damping)

    def owners(self, sides: Sequence[Side]) -> list[int] | None:
        """Which rank decomposes which side; None where each had better decompose all."""
        costs = [self.curvature.cost(side.state, side.name) for side in sides]
        owners = assign(costs, self.ranks.size)
        sent = sum(elements(self.blank(side)) for side in sides)
        return owners if sum(costs) - makespan(costs, owners) > ELEMENT * sent else None

    def decompose(self, side: Side, damping: float) -> None:
        try:
            side.found = self.curvature.decompose(side.state, side.name, damping, side.events)
        except DecompositionError as error:
            side.events[error.count] += 1

    def agree(self, sides: Sequence[Side]) -> None:
        """What has happened to any rank has happened to all."""
        totals = iter(self.ranks.numbers(*(side.events[name] for side in sides for name in EVENTS)))
        for side in sides:
            side.events = Tally({name: 1 for name in EVENTS if next(totals)})

    def count(self, A: Side, B: Side) -> bool:
        """Count what has happened to the sides of one player, as in one process; whether either has failed."""
        self.tally.update(A.events if A.failed else A.events + B.events)
        return A.failed or B.failed

    def exchange(self, sides: Sequence[Side]) -> None:
        """Give every side what its owner has found."""
        for side in sides:
            side.found = self.blank(side) if side.found is None else side.found
        for packet in packets(sides, PACKET):
            names = [(side, name) for side in packet for name in side.found or {}]
            spread = self.ranks.spread(*(x for side in packet for x in (side.found or {}).values()))
            for (side, name), x in zip(names, spread, strict=True):
                side.found[name] = x  # type: ignore[index]

    def blank(self, side: Side) -> State:
        return self.curvature.blank(side.state, side.name)


def assign(costs: Sequence[float], size: int) -> list[int]:
    """The rank of each job: the longest first, each to the rank with the least to do so far.

    Graham's rule (SIAM J. Appl. Math. 17, 1969): the last rank is done within 4/3 − 1/(3·size) of the least time.
    """
    owners = [0] * len(costs)
    load = [(0.0, rank) for rank in range(size)]
    for j in sorted(range(len(costs)), key=lambda j: -costs[j]):
        busy, owners[j] = heapq.heappop(load)
        heapq.heappush(load, (busy + costs[j], owners[j]))
    return owners


def makespan(costs: Sequence[float], owners: Sequence[int]) -> float:
    """When the last rank is done."""
    load = dict.fromkeys(owners, 0.0)
    for cost, owner in zip(costs, owners, strict=True):
        load[owner] += cost
    return max(load.values())


def packets(sides: Sequence[Side], most: int) -> Iterator[list[Side]]:
    """The sides in order, in groups of at most so many elements, or of one."""
    group, filled = list[Side](), 0
    for side in sides:
        size = elements(side.found or {})
        if group and filled + size > most:
            yield group
            group, filled = [], 0
        group.append(side)
        filled += size
    if group:
        yield group


def elements(found: State) -> int:
    return sum(x.numel() for x in found.values())
