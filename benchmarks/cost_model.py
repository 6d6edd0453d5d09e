"""What a step under DistributedDataParallel sends and waits for, as formulas: the model behind docs/scaling.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ocnopt.curvature import EKFAC
from ocnopt.curvature.decompositions import PRODUCT
from ocnopt.curvature.splitting import EVENTS, PACKET, assign, makespan
from ocnopt.players import Refusal
from ocnopt.players.base import MatrixModulePlayer
from ocnopt.seats import seats_of


@dataclass(frozen=True)
class Job:
    """What one rank may do for all: a "basis" or "inverse" of n x n, or to "carry" moments, in as many terms as n³.

    elements: of its results.
    """

    kind: str
    n: float
    elements: int
    seconds: float


@dataclass(frozen=True)
class Player:
    """A module as the optimizer sees it. statistics: elements of both factors.  jobs: its decompositions.

    moments: elements of second moments in an eigenbasis.  carries: what is to be done for these afterwards.
    """

    parameters: int
    statistics: int = 0
    moments: int = 0
    jobs: tuple[Job, ...] = ()
    carries: tuple[Job, ...] = ()


@dataclass(frozen=True)
class Network:
    """players: those that take part, in order of call.  turns: modules with parameters.  parameters: all of them."""

    players: tuple[Player, ...]
    turns: int
    parameters: int

    @property
    def jobs(self) -> list[Job]:
        return [job for player in self.players for job in player.jobs]

    @property
    def carries(self) -> list[Job]:
        return [job for player in self.players for job in player.carries]


@dataclass(frozen=True)
class Sent:
    """Collectives of one kind of step, as the number of elements of each."""

    sizes: tuple[float, ...]

    @property
    def elements(self) -> float:
        return sum(self.sizes)


Speeds = dict[int, tuple[float, float, float]]
"""n → seconds of an eigenbasis, of an inverse and of a product, as measured."""


def priced(network: Network, speeds: Speeds) -> Network:
    """The network with seconds for its decompositions: c·n³, with c as at the nearest n that was measured."""
    own = ((player, [tuple(timed(j, speeds) for j in jobs) for jobs in parts(player)]) for player in network.players)
    return replace(network, players=tuple(replace(player, jobs=jobs, carries=after) for player, (jobs, after) in own))


def parts(player: Player) -> tuple[tuple[Job, ...], tuple[Job, ...]]:
    return player.jobs, player.carries


def timed(job: Job, speeds: Speeds) -> Job:
    nearest = min(speeds, key=lambda n: abs(math.log(n / job.n)))
    c = dict(zip(("basis", "inverse", "carry"), speeds[nearest], strict=True)).get(job.kind, 0.0)
    return replace(job, seconds=c * (job.n / nearest) ** 3)


def network_of(model: nn.Module, curvature: EKFAC) -> Network:
    """The model as the optimizer sees it, its decompositions not priced. On the device "meta" it takes no memory."""
    seats = seats_of(model, {id(p) for p in model.parameters()})
    found = [player_of(seat.player(seat.names), curvature) for seat in seats]
    players = tuple(player for player in found if player is not None)
    return Network(players, len(seats), sum(p.numel() for p in model.parameters()))


def player_of(player: Any, curvature: EKFAC) -> Player | None:
    """None for what takes no part in the feedback."""
    if isinstance(player, Refusal):
        return None
    size = sum(p.numel() for p in player.parameters)
    if not isinstance(player, MatrixModulePlayer):
        return Player(size)
    state: dict[str, Any] = {}
    with torch.device("meta"):
        curvature.lay_out(player, state)
    blanks = [curvature.blank(state, side) for side in "AB"]
    results = [sum(x.numel() for x in blank.values()) for blank in blanks]
    n = [side_of(state[side]) for side in "AB"]
    kinds = ["none" if x.dim() == 2 else "basis" if "S" in state else "inverse" for x in (state["A"], state["B"])]
    jobs = tuple(Job(*job, 0.0) for job in zip(kinds, n, results, strict=True))
    statistics = sum(state[side].numel() for side in "AB")
    if "S" not in state:
        return Player(size, statistics, 0, jobs)
    terms, moments = curvature.carry_cost(state) / PRODUCT, state["S"].numel()
    return Player(size, statistics, moments, jobs, (Job("carry", terms ** (1 / 3), moments, 0.0),))


def side_of(X: torch.Tensor) -> float:
    """Of the one matrix that takes as long as the blocks of X (g, n, b)."""
    n = X.shape[1]
    return n if X.dim() == 2 or X.shape[2] == n else (n * X.shape[2] ** 2) ** (1 / 3)


def plain_step(network: Network) -> Sent:
    """A step without statistics and decompositions: decisions, and two pulls of nearly every player."""
    small = (1.0, 3.0 * network.turns, 1.0, 4.0, 4.0)
    bases = sum(1.0 for player in network.players if player.moments)
    sizes = [float(player.parameters) for player in network.players]
    back, ahead = sizes[:-1], sizes[1:] if network.players[0].jobs else sizes
    return Sent((*small, *([bases] if bases else []), *back, *ahead))


def statistics_of(network: Network) -> Sent:
    """What a step that gathers statistics sends besides."""
    sizes = [x for player in network.players for x in (player.statistics, player.moments) if x]
    return Sent(tuple(map(float, sizes)))


def results_of(jobs: Sequence[Job]) -> Sent:
    """What a step that spreads these decompositions sends besides: what became of each, and the results in packets."""
    packets = [0.0]
    for job in jobs:
        if packets[-1] and packets[-1] + job.elements > PACKET:
            packets.append(0.0)
        packets[-1] += job.elements
    return Sent((float(len(EVENTS) * len(jobs)), *packets))


@dataclass(frozen=True)
class Link:
    """t(elements) = latency·log₂ p + 2 (p − 1)/p · bytes/bandwidth, for an all-reduce over p ranks.

    latency: seconds.  bandwidth: bytes per second.  width: bytes of an element.
    """

    name: str
    latency: float
    bandwidth: float
    width: int = 4

    def seconds(self, elements: float, ranks: int) -> float:
        if ranks == 1:
            return 0.0
        volume = 2 * (ranks - 1) / ranks * self.width * elements
        return self.latency * math.log2(ranks) + volume / self.bandwidth

    def total(self, sent: Sent, ranks: int) -> float:
        return sum(self.seconds(size, ranks) for size in sent.sizes)


@dataclass(frozen=True)
class Cost:
    """Mean seconds per step: gradients (any optimizer's), what OCNOpt sends, decompositions by all and spread."""

    gradients: float
    sent: float
    alone: float
    spread: float


def cost_of(network: Network, curvature: EKFAC, link: Link, ranks: int) -> Cost:
    """Means over a period of decompositions: each player's are due once, in the step of its offset."""
    every = curvature.decompose_every
    groups = due_together(network, curvature, ranks)
    sent = link.total(plain_step(network), ranks)
    sent += link.total(statistics_of(network), ranks) / curvature.period
    alone = sum(job.seconds for job in (*network.jobs, *network.carries)) / every
    spread = sum(spread_seconds(jobs, link, ranks) for group in groups for jobs in group if jobs) / every
    return Cost(link.seconds(network.parameters, ranks), sent, alone, spread)


def spread_seconds(jobs: Sequence[Job], link: Link, ranks: int) -> float:
    """The longest share, and sending the results; all by each rank where that takes less."""
    shared = longest(jobs, ranks) + link.total(results_of(jobs), ranks)
    return min(sum(job.seconds for job in jobs), shared)


def due_together(network: Network, curvature: EKFAC, ranks: int) -> list[tuple[list[Job], list[Job]]]:
    """Decompositions, and what follows from them, of each step of a period in which there are any."""
    matrices = [player for player in network.players if player.jobs]
    steps: dict[int, tuple[list[Job], list[Job]]] = {}
    for j, player in enumerate(matrices):
        group = steps.setdefault(curvature.offset(j, len(matrices), ranks), ([], []))
        group[0].extend(player.jobs)
        group[1].extend(player.carries)
    return [*steps.values()]


def longest(jobs: Sequence[Job], ranks: int) -> float:
    """Seconds of the rank that has most to do."""
    costs = [job.seconds for job in jobs]
    return makespan(costs, assign(costs, ranks)) if jobs else 0.0
