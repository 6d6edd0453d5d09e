"""Decompositions spread over ranks: each is made by one of them, and all take the same bits.

All ranks hold the same factors, so each could decompose them all, and does where that takes no longer than sending
the results. Either way they agree on what has failed: memory may be exhausted on one of them alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import torch

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
class Job:
    """What one rank may do for all. make: with a tally for its fallbacks.  cost: seconds.

    like: tensors without storage, of the shapes of the result.  found: the result, once it is there.
    events: what has happened on the way.
    """

    make: Callable[[Tally], State]
    cost: float
    like: State
    found: State = field(default_factory=dict)
    events: Tally = field(default_factory=Tally)

    @property
    def failed(self) -> bool:
        return any(self.events[name] for name in FAILURES)

    @property
    def elements(self) -> int:
        return sum(x.numel() for x in self.like.values())

    def run(self) -> None:
        try:
            self.found = self.make(self.events)
        except DecompositionError as error:
            self.events[error.count] += 1


@dataclass(frozen=True)
class Splitting:
    """The decompositions of one step."""

    curvature: Kronecker
    ranks: Ranks

    def renew(self, states: Sequence[State], damping: float, tallies: Sequence[Tally]) -> None:
        """Decompose the factors of all these players anew; where it fails on any rank, the old ones stay on all.

        tallies: one for each player, to count its fallbacks, the same ones on all ranks.
        """
        if self.ranks.size == 1:
            for state, tally in zip(states, tallies, strict=True):
                self.curvature.renew(state, damping, tally)
            return
        sides = [[self.side(state, name, damping) for name in SIDES] for state in states]
        self.share([*chain(*sides)])
        players = zip(states, tallies, sides, strict=True)
        sound = [(state, tally, A.found | B.found) for state, tally, (A, B) in players if not failed(tally, A, B)]
        carries = [self.carry(state, found) for state, _, found in sound]
        self.share([job for job in carries if job.cost])
        for (state, tally, found), job in zip(sound, carries, strict=True):
            if not job.cost:
                job.run()
            if not failed(tally, job):
                self.curvature.adopt(state, found | job.found, damping)

    def side(self, state: State, name: str, damping: float) -> Job:
        """The decomposition of one side of a player."""
        shapes = {side: state[side].to("meta") for side in SIDES}
        like, cost = self.curvature.blank(shapes, name), self.curvature.cost(state, name)
        return Job(partial(self.curvature.decompose, state, name, damping), cost, like)

    def carry(self, state: State, found: State) -> Job:
        """What follows from both sides; without a cost, where no rank needs another's help."""
        cost = self.curvature.carry_cost(state)
        like = {"S": state["S"].to("meta")} if cost else {}
        return Job(lambda _: self.curvature.carry(state, found), cost, like)

    def share(self, jobs: Sequence[Job]) -> None:
        """Have the jobs done, each by its owner or all by everyone, with the same outcome on all ranks."""
        if not jobs:
            return
        owners = owners_of(jobs, self.ranks.size)
        for j, job in enumerate(jobs):
            if owners is None or owners[j] == self.ranks.rank:
                job.run()
        self.agree(jobs)
        if owners is not None:
            self.exchange([job for job in jobs if not job.failed])

    def agree(self, jobs: Sequence[Job]) -> None:
        """What has happened to any rank has happened to all."""
        totals = iter(self.ranks.numbers(*(job.events[name] for job in jobs for name in EVENTS)))
        for job in jobs:
            job.events = Tally({name: 1 for name in EVENTS if next(totals)})

    def exchange(self, jobs: Sequence[Job]) -> None:
        """Give every job what its owner has found."""
        for packet in packets(jobs, PACKET):
            own = [job.found or {name: self.zeros(x) for name, x in job.like.items()} for job in packet]
            spread = iter(self.ranks.spread(*chain.from_iterable(tensors.values() for tensors in own)))
            for job in packet:
                job.found = {name: next(spread) for name in job.like}

    def zeros(self, like: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(like, device=self.ranks.device or "cpu")


def failed(tally: Tally, *jobs: Job) -> bool:
    """Count what has happened to the jobs of one player, up to the first that failed; whether one has."""
    for job in jobs:
        tally.update(job.events)
        if job.failed:
            return True
    return False


def owners_of(jobs: Sequence[Job], size: int) -> list[int] | None:
    """Which rank does which job; None where each had better do all."""
    costs = [job.cost for job in jobs]
    owners = assign(costs, size)
    sent = sum(job.elements for job in jobs)
    return owners if sum(costs) - makespan(costs, owners) > ELEMENT * sent else None


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


def packets(jobs: Sequence[Job], most: int) -> Iterator[list[Job]]:
    """The jobs in order, in groups whose results have at most so many elements, or of one."""
    group, filled = list[Job](), 0
    for job in jobs:
        if group and filled + job.elements > most:
            yield group
            group, filled = [], 0
        group.append(job)
        filled += job.elements
    if group:
        yield group
