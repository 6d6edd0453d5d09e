"""What a step under DistributedDataParallel sends and waits for, as formulas: the model behind docs/scaling.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ocnopt.curvature import EKFAC
from ocnopt.curvature.splitting import EVENTS, PACKET, assign, makespan
from ocnopt.players import Refusal
from ocnopt.players.base import MatrixModulePlayer
from ocnopt.seats import seats_of


@dataclass(frozen=True)
class Job:
    """One side's decomposition: "basis" or "inverse", n of its matrix, elements of its results, seconds."""

    kind: str
    n: int
    elements: int
    seconds: float


@dataclass(frozen=True)
class Player:
    """A module as the optimizer sees it. sides: (n_in, n_out), None without Kronecker factors; whole: kept whole."""

    parameters: int
    sides: tuple[int, int] | None
    statistics: int = 0
    moments: int = 0
    jobs: tuple[Job, ...] = ()


@dataclass(frozen=True)
class Network:
    """players: those that take part, in order of call.  turns: modules with parameters.  parameters: all of them."""

    players: tuple[Player, ...]
    turns: int
    parameters: int

    @property
    def jobs(self) -> list[Job]:
        return [job for player in self.players for job in player.jobs]


@dataclass(frozen=True)
class Sent:
    """Collectives of one kind of step, as the number of elements of each."""

    sizes: tuple[float, ...]

    @property
    def elements(self) -> float:
        return sum(self.sizes)


Speeds = dict[int, tuple[float, float]]
"""n → seconds of an eigenbasis and of an inverse, as measured."""


def priced(network: Network, speeds: Speeds) -> Network:
    """The network with seconds for its decompositions: c·n³, with c as at the nearest n that was measured."""
    players = [replace(p, jobs=tuple(replace(j, seconds=seconds(j, speeds)) for j in p.jobs)) for p in network.players]
    return replace(network, players=tuple(players))


def seconds(job: Job, speeds: Speeds) -> float:
    nearest = min(speeds, key=lambda n: abs(math.log(n / job.n)))
    basis, inverse = speeds[nearest]
    return {"basis": basis, "inverse": inverse, "none": 0.0}[job.kind] * (job.n / nearest) ** 3


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
        return Player(size, None)
    state: dict[str, Any] = {}
    with torch.device("meta"):
        curvature.lay_out(player, state)
    blanks = [curvature.blank(state, side) for side in "AB"]
    results = [sum(x.numel() for x in blank.values()) for blank in blanks]
    n = [state[side].shape[-1] for side in "AB"]
    kinds = ["none" if x.dim() == 2 else "basis" if "S" in state else "inverse" for x in (state["A"], state["B"])]
    jobs = tuple(Job(*job, 0.0) for job in zip(kinds, n, results, strict=True))
    statistics = sum(state[side].numel() for side in "AB")
    return Player(size, (n[0], n[1]), statistics, state["S"].numel() if "S" in state else 0, jobs)


def plain_step(network: Network) -> Sent:
    """A step without statistics and decompositions: decisions, and two pulls of nearly every player."""
    small = (1.0, 3.0 * network.turns, 1.0, 3.0, 4.0)
    sizes = [float(player.parameters) for player in network.players]
    back, ahead = sizes[:-1], sizes[1:] if network.players[0].sides else sizes
    return Sent((*small, *back, *ahead))


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
    sent += link.total(statistics_of(network), ranks) / curvature.statistics_every
    alone = sum(job.seconds for job in network.jobs) / every
    spread = sum(spread_seconds(jobs, link, ranks) for jobs in groups) / every
    return Cost(link.seconds(network.parameters, ranks), sent, alone, spread)


def spread_seconds(jobs: Sequence[Job], link: Link, ranks: int) -> float:
    """The longest share, and sending the results; all by each rank where that takes less."""
    costs = [job.seconds for job in jobs]
    shared = makespan(costs, assign(costs, ranks)) + link.total(results_of(jobs), ranks)
    return min(sum(costs), shared)


def due_together(network: Network, curvature: EKFAC, ranks: int) -> list[list[Job]]:
    """Jobs of each step of a period in which there are any."""
    matrices = [player for player in network.players if player.jobs]
    steps: dict[int, list[Job]] = {}
    for j, player in enumerate(matrices):
        steps.setdefault(curvature.offset(j, len(matrices), ranks), []).extend(player.jobs)
    return [*steps.values()]
