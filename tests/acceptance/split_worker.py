"""What each of the processes does that test_split_ranks.py starts: longer runs, decompositions spread over all."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from acceptance_cases import OPTIMIZERS, Problem, Run, class_loss, given_labels, normal, snapshot
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.join import Join
from torch.nn.parallel import DistributedDataParallel

from ocnopt.core.ranks import Ranks
from ocnopt.core.search import Model
from ocnopt.curvature import splitting

METRICS = ("ekfac", "kfac", "adam")
SPLIT, ALONE = 0.0, math.inf
"""Seconds that sending one element is taken to last: all decompositions are spread, or none."""


def network() -> nn.Module:
    """All there is: a matrix player without bias, one with, and players without matrix."""
    return nn.Sequential(
        nn.Linear(6, 10), nn.Tanh(), nn.LayerNorm(10), nn.Linear(10, 12, bias=False), nn.Tanh(), nn.Linear(12, 3)
    )


class Half(Run):
    """A run on this process's share of the batches, under the wrapper. sizes: samples of each process."""

    def __init__(self, name: str, sizes: list[int], rank: int, dtype: torch.dtype = torch.float32) -> None:
        draw, first = normal(sum(sizes), 6), sum(sizes[:rank])
        self.problem = Problem(network, lambda step: draw(step)[first : first + sizes[rank]], class_loss)
        torch.manual_seed(0)
        self.model = network().to(dtype)
        self.call = DistributedDataParallel(self.model) if len(sizes) > 1 else self.model
        self.optimizer = OPTIMIZERS[name](self.model)
        self.around, self.losses = nullcontext, []


def evenly(size: int) -> list[int]:
    return [16 // size] * size


@contextmanager
def element(seconds: float) -> Iterator[None]:
    with mock.patch.object(splitting, "ELEMENT", seconds):
        yield


def steady(run: Half) -> Half:
    """With λ as is right for batches of 16 that are new at every step."""
    if isinstance(run.optimizer.search, Model):
        run.optimizer.search = replace(run.optimizer.search, noise=2.0)
    return run


def trained(name: str, rank: int, size: int, steps: int, seconds: float) -> dict[str, Any]:
    """Weights, state and counts after so many steps, and what went before them."""
    run, told, early = steady(Half(name, evenly(size), rank)), [], None
    with element(seconds):
        for step in range(steps):
            run.step(step)
            told.append(run.optimizer.diagnostics())
            early = snapshot(run) if step == 29 else early
    return {"end": snapshot(run), "early": early, "told": told, "losses": run.losses}


def paired(run: Half) -> Half:
    """Without draws, and with two players decomposed together whatever the number of processes."""
    given_labels(run)
    if hasattr(run.optimizer.curvature, "together"):
        run.optimizer.curvature = replace(run.optimizer.curvature, together=2)
    return run


def halves(name: str, rank: int, size: int) -> Any:
    """Without labels drawn, which each process draws for itself: comparable with one process that has all samples."""
    with element(SPLIT):
        return snapshot(paired(Half(name, evenly(size), rank, torch.float64)).train(range(51)))


def resumed(name: str, rank: int, size: int) -> Any:
    """Two runs, of which one is saved and loaded on the way."""
    with element(SPLIT):
        run, other = Half(name, evenly(size), rank).train(range(12)), Half(name, evenly(size), rank)
        model, optimizer = copy.deepcopy((run.model.state_dict(), run.optimizer.state_dict()))
        other.model.load_state_dict(model)
        other.optimizer.load_state_dict(optimizer)
        return snapshot(run.train(range(12, 26))), snapshot(other.train(range(12, 26)))


def failing(rank: int, size: int, seconds: float) -> Any:
    """From step 10 on, no eigenbasis converges on the last process. Four processes go no further than that."""
    real, run = torch.linalg.eigh, Half("ekfac", evenly(size), rank).train(range(9))

    def eigh(A: Tensor) -> Any:
        if rank == size - 1:
            raise torch.linalg.LinAlgError("did not converge")
        return real(A)

    with element(seconds), mock.patch.object(torch.linalg, "eigh", eigh):
        run.train(range(9, 26 if size == 2 else 11))
    return snapshot(run), run.optimizer.diagnostics()


def damaged(rank: int, size: int) -> Any:
    """One process finds a number in its state that is not one."""
    run = Half("ekfac", evenly(size), rank).train(range(7))
    if rank == 0:
        run.optimizer.state[run.model[0].weight]["U_A"][0, 0, 0] = float("nan")
    run.train(range(7, 14))
    return snapshot(run), run.optimizer.diagnostics()


def uneven(name: str, rank: int, size: int) -> Any:
    """Batches of different sizes."""
    return snapshot(Half(name, [11, 5][:size], rank).train(range(11)))


class Skips(nn.Module):
    """A layer that some processes pass over."""

    def __init__(self, skip: bool) -> None:
        super().__init__()
        self.skip, self.first, self.second = skip, nn.Linear(6, 6), nn.Linear(6, 6)
        self.read = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return self.read(h if self.skip else self.second(h).tanh())


def skipping(name: str, rank: int, size: int) -> Any:
    """In every other step, one process does not call a layer that the others call."""
    run = Half(name, evenly(size), rank)
    torch.manual_seed(0)
    run.model = Skips(skip=False)
    run.call = DistributedDataParallel(run.model, find_unused_parameters=True)
    run.optimizer = OPTIMIZERS[name](run.model)
    for step in range(11):
        run.model.skip = rank == 0 and step % 2 == 1
        run.step(step)
    return snapshot(run)


def joined(rank: int, size: int) -> list[str]:
    """What is said of a Join that shadows processes without batches, and of one that ends training for all."""
    said = []
    for early in (False, True):
        run = Half("ekfac", evenly(size), rank)
        try:
            with Join([run.call], throw_on_early_termination=early):
                run.step(0)
        except (ValueError, RuntimeError) as error:
            said.append(str(error))
    return said


def spread_bits(rank: int, size: int) -> list[Tensor]:
    """Numbers whose bits a sum of floating-point numbers would lose."""
    own = [torch.tensor([-0.0, 1e-45, float("inf")]), torch.tensor([-0.0, 5e-324], dtype=torch.float64)]
    ranks = Ranks(size, rank)
    return [*ranks.spread(*(x if rank == 0 else torch.zeros_like(x) for x in own))]


def of_two(rank: int) -> dict[str, Any]:
    """All cases, one after the other."""
    out: dict[str, Any] = {f"split {name}": trained(name, rank, 2, 100, SPLIT) for name in METRICS}
    for name in ("ekfac", "kfac"):
        out.update({f"alone {name}": trained(name, rank, 2, 30, ALONE), f"resumed {name}": resumed(name, rank, 2)})
    for case in (halves, uneven, skipping):
        out.update({f"{case.__name__} {name}": case(name, rank, 2) for name in METRICS})
    out.update(failing=failing(rank, 2, SPLIT), **{"failing alone": failing(rank, 2, ALONE)})
    return out | {"damaged": damaged(rank, 2), "joined": joined(rank, 2), "bits": spread_bits(rank, 2)}


def of_four(rank: int) -> dict[str, Any]:
    """What four processes on few cores have time for."""
    out: dict[str, Any] = {f"split {name}": trained(name, rank, 4, 12, SPLIT) for name in ("ekfac", "kfac")}
    return out | {"failing": failing(rank, 4, SPLIT)}


def work(rank: int, size: int, folder: str) -> None:
    """What one of so many processes does."""
    torch.set_num_threads(1)
    store = distributed.FileStore(f"{folder}/store", size)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60))
    try:
        torch.save(of_two(rank) if size == 2 else of_four(rank), Path(folder) / f"{rank}.pt")
    finally:
        distributed.destroy_process_group()
