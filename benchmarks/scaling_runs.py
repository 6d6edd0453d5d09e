"""Processes on this machine that train under DistributedDataParallel and time what the model of costs predicts."""

from __future__ import annotations

import math
import multiprocessing as standard
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from scaling_models import loss_of, narrow
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from ocnopt import OCNOpt
from ocnopt.core.ranks import ALONE
from ocnopt.curvature import EKFAC, KFAC, splitting
from ocnopt.linalg.symmetric import Tally

COUNTS = ("collectives", "elements communicated")
PLAIN = range(11, 25)
"""Steps of which all but the twentieth gather no statistics and decompose nothing."""


@dataclass(frozen=True)
class Timed:
    """Of one network on so many processes. step: seconds of a plain step.

    alone, spread: processor seconds of the busiest process for all decompositions, made by each and spread.
    counts: (collectives, elements) of a plain step.
    """

    step: float
    alone: float
    spread: float
    counts: tuple[int, int]


def timed(work: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """The fewest seconds, after one call to warm up; the processes wait for one another before each call.

    The fewest, since other work on the machine only adds to them.
    """
    work()
    seconds = []
    for _ in range(repeats):
        if distributed.is_initialized():
            distributed.barrier()
        start = clock()
        work()
        seconds.append(clock() - start)
    return min(seconds)


def sums(sizes: list[int], repeats: int) -> dict[int, float]:
    """Seconds of an all-reduce of so many float32 numbers."""
    return {n: timed(partial(distributed.all_reduce, torch.zeros(n)), repeats) for n in sizes}


def bases(sizes: list[int], repeats: int) -> dict[int, tuple[float, float, float]]:
    """Processor seconds of an eigenbasis, of a damped inverse and of a product of n x n matrices, by n."""
    found = {}
    for n in sizes:
        X = torch.randn(1, n, 2 * n, generator=torch.Generator().manual_seed(n))
        state = {"A": X @ X.mT / (2 * n), "B": X @ X.mT / (2 * n)}
        kinds = (EKFAC(), KFAC())
        jobs = [partial(kind.decompose, state, "A", 0.1, Tally()) for kind in kinds]
        jobs.append(partial(torch.matmul, state["A"], state["B"]))
        eigen, inverse, product = (timed(job, repeats, time.process_time) for job in jobs)
        found[n] = eigen, inverse, product
    return found


class Trial:
    """One network in training. ranks: the processes, as its optimizer has seen them."""

    def __init__(self, name: str, rank: int) -> None:
        torch.manual_seed(0)
        self.name, self.draws = name, torch.Generator().manual_seed(rank)
        self.model = narrow(name)
        self.call: nn.Module = DistributedDataParallel(self.model) if distributed.is_initialized() else self.model
        self.optimizer = OCNOpt(self.model, feedback_every=1)

    def step(self) -> None:
        self.optimizer.zero_grad()
        loss_of(self.name, self.call, self.draws).backward()
        self.optimizer.step()

    def counts(self) -> tuple[int, int]:
        told = self.optimizer.diagnostics()
        return int(told.get(COUNTS[0], 0)), int(told.get(COUNTS[1], 0))

    def plain(self) -> tuple[float, tuple[int, int]]:
        """The fewest seconds of a plain step, and what it sends."""
        seconds, sent = [], []
        for number in range(1, PLAIN.stop + 1):
            before, start = self.counts(), time.perf_counter()
            self.step()
            if number in PLAIN and number % 10:
                seconds.append(time.perf_counter() - start)
                after = self.counts()
                sent.append((after[0] - before[0], after[1] - before[1]))
        return min(seconds), min(sent)

    def renewal(self, element: float, repeats: int) -> float:
        """Processor seconds of all decompositions of the network; element: what sending one is taken to last."""
        ranks = self.optimizer.capture.ranks if distributed.is_initialized() else ALONE
        states = [state for state in self.optimizer.state.values() if "A" in state]
        job = splitting.Splitting(self.optimizer.curvature, ranks)
        with mock.patch.object(splitting, "ELEMENT", element):
            return timed(lambda: job.renew(states, 0.1, [Tally() for _ in states]), repeats, time.process_time)


def trial(name: str, rank: int, repeats: int) -> Timed:
    one = Trial(name, rank)
    step, counts = one.plain()
    with torch.no_grad():
        return Timed(step, one.renewal(math.inf, repeats), one.renewal(0.0, repeats), counts)


def child(rank: int, size: int, folder: str, names: tuple[str, ...], repeats: int) -> None:
    """What one of the processes does; each writes down what it has seen."""
    torch.set_num_threads(1)
    if size > 1:
        store = distributed.FileStore(f"{folder}/store", size)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    found: dict[str, Any] = {name: trial(name, rank, repeats) for name in names}
    if size > 1:
        found["sums"] = sums([1, 1000, 10_000, 100_000, 1_000_000], repeats)
        distributed.destroy_process_group()
    torch.save(found, Path(folder) / f"{rank}.pt")


def measured(size: int, names: tuple[str, ...], repeats: int) -> dict[str, Any]:
    """Times of every network on so many processes, and of all-reduces between them."""
    with tempfile.TemporaryDirectory() as folder:
        if size == 1:
            child(0, 1, folder, names, repeats)
        else:
            standard.set_forkserver_preload(["scaling_runs"])  # torch is imported once for all of them
            multiprocessing.start_processes(child, (size, folder, names, repeats), size, start_method="forkserver")
        every = [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(size)]
    return every[0] | {name: busiest([found[name] for found in every]) for name in names}


def busiest(every: list[Timed]) -> Timed:
    """The step as the first process has seen it, and the work of the one that had most of it."""
    return replace(every[0], alone=max(x.alone for x in every), spread=max(x.spread for x in every))
