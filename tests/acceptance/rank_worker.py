"""What each of the processes does that test_ranks.py starts: it trains, and writes down what became of it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from acceptance_cases import OPTIMIZERS, Run, built, given_labels, snapshot, weights
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from ocnopt import OCNOpt
from ocnopt.core import turned
from ocnopt_lab.acceptance import processes

RANKS = 2
GAMES = ("feedback-nash", "cooperative")


def share(x: Tensor, rank: int) -> Tensor:
    """The samples of one process."""
    return x.chunk(RANKS)[rank]


class Parallel(Run):
    """A run whose model is wrapped, on this process's samples."""

    def __init__(self, name: str, rank: int, problem: str = "mlp", wrapped: bool = False) -> None:
        super().__init__("adamw", problem)
        draw = self.problem.draw
        self.problem = self.problem._replace(draw=lambda step: share(draw(step), rank))
        self.call = DistributedDataParallel(self.model)
        self.optimizer = OPTIMIZERS[name](self.call if wrapped else self.model)


def whole_batch(name: str, rank: int) -> Any:
    """Without labels drawn, which each process draws for itself: comparable with one process that has all samples."""
    return snapshot(given_labels(Parallel(name, rank)).train(range(7)))


def of_the_wrapper(name: str, rank: int) -> Any:
    """The optimizer is given the wrapper."""
    return weights(given_labels(Parallel(name, rank, wrapped=True)).train(range(7)).model)


def turned_on_both(name: str, rank: int) -> Any:
    """The passes run in the eigenbasis wherever they can."""
    with mock.patch.object(turned, "WORTH", math.inf):
        return weights(given_labels(Parallel(name, rank)).train(range(7)).model)


def turned_on_one(name: str, rank: int) -> Any:
    """One process, with fewer samples, would have it so, and must ask the other."""
    with mock.patch.object(turned, "WORTH", math.inf if rank else 0.0):
        return weights(given_labels(Parallel(name, rank)).train(range(7)).model)


def accumulated(name: str, rank: int) -> Any:
    """Two micro-batches, synchronised once, and clipped."""
    run = given_labels(Parallel(name, rank))
    for step in range(4):
        run.optimizer.zero_grad()
        with run.call.no_sync():
            (run.loss(step) / 2).backward()
        (run.loss(step + 20) / 2).backward()
        clip_grad_norm_(run.model.parameters(), 1.0)
        run.optimizer.step()
    return weights(run.model)


def overflowed(name: str, rank: int) -> Any:
    """One process meets a loss that is not finite."""
    run = Parallel(name, rank).train(range(3))
    run.optimizer.zero_grad()
    (run.loss(3) * (float("inf") if rank else 1.0)).backward()
    if name != "adamw":
        run.optimizer.step()
    return weights(run.train(range(4, 7)).model)


def watched_by_one(name: str, rank: int) -> Any:
    """One process looks into steps, as the one that writes the logs does."""
    run = Parallel(name, rank)
    for step in range(4):
        if rank == 0 and name != "adamw":
            run.optimizer.observe()
        run.train(range(step, step + 1))
    return weights(run.model)


class Residual(nn.Module):
    """Two layers beside one, whose stages a game may align."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.shortcut = nn.Linear(4, 5), nn.Linear(5, 6), nn.Linear(4, 6)
        self.read = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read((self.second(self.first(x).tanh()) + self.shortcut(x)).tanh())


def game(kind: str, rank: int) -> Any:
    """Bandits must choose alike on all ranks, though each sees the loss of its own samples."""
    run = Parallel("adamw", rank)
    torch.manual_seed(0)
    run.model = Residual().double()
    run.call = DistributedDataParallel(run.model)
    run.optimizer = OCNOpt(run.model, game=kind)
    run.train(range(45))
    return weights(run.model), run.optimizer.decisions()


CASES = (whole_batch, of_the_wrapper, turned_on_both, turned_on_one, accumulated, overflowed, watched_by_one)


def sharded() -> str:
    """What is said of a model under fully_shard; empty where it trains."""
    model = built()
    fully_shard(model)
    try:
        OPTIMIZERS["ekfac"](model)
    except ValueError as error:
        return str(error)
    return ""


def unwrapped(rank: int) -> list[str]:
    """Warnings where nobody averages the gradients."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Run("ekfac").train(range(1))
    return [str(warning.message) for warning in caught]


def outcome(case: Any, name: str, rank: int) -> Any:
    try:
        return case(name, rank)
    except ValueError as error:
        return str(error)


def work(rank: int, folder: str, others: Sequence[str]) -> None:
    """All cases, one after the other, on one of the processes, and before them what the suite asks of the others."""
    processes.work(rank, folder, others)
    store = distributed.FileStore(f"{folder}/store", RANKS)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
    try:
        found = {case.__name__: {name: outcome(case, name, rank) for name in OPTIMIZERS} for case in CASES}
        found["game"] = {kind: game(kind, rank) for kind in GAMES}
        found.update(sharded=sharded(), unwrapped=unwrapped(rank))
        torch.save(found, Path(folder) / f"closer-{rank}.pt")
    finally:
        distributed.destroy_process_group()
