"""Two gloo processes that train together, as DistributedDataParallel and as fully_shard (FSDP2) have it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, multiprocessing
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from ocnopt_lab.acceptance.check import Bench, Contender, Failed, require, said
from ocnopt_lab.acceptance.loops import STEPS, plain_sgd, rounding
from ocnopt_lab.acceptance.networks import moved_and_finite
from ocnopt_lab.acceptance.run import Make, Run, apart, same, weights

RANKS = 2
START, LIMIT = timedelta(seconds=300), timedelta(seconds=60)
"""For both to be there, and for one to wait for the other within a case."""

Found = dict[tuple[str, str], list[Any]]
"""(contender, case) → what each rank found: weights by name, or an error."""


class Part(Run):
    """A run on one rank's share of every batch, not wrapped yet."""

    def __init__(self, contender: Contender, rank: int, problem: str = "mlp") -> None:
        super().__init__(plain_sgd, problem, contender.precision)
        draw = self.problem.draw
        self.problem = self.problem._replace(draw=lambda step: draw(step).chunk(RANKS)[rank])


def spread(contender: Contender, make: Make, rank: int, problem: str) -> dict[str, Tensor]:
    """The optimizer is given the module inside of the wrapper, which all of them take."""
    run = Part(contender, rank, problem)
    run.call = DistributedDataParallel(run.model)
    run.optimizer = make(run.model)
    return weights(run.train(range(STEPS)).model)


def sharded(contender: Contender, rank: int) -> dict[str, Tensor] | str:
    """The weights, put together, or the sentence with which the constructor refuses."""
    run = Part(contender, rank)
    fully_shard(run.model)
    try:
        run.optimizer = contender.given(run.model)
    except (TypeError, ValueError) as error:
        return str(error)
    run.train(range(STEPS))
    return {name: whole(p) for name, p in run.model.named_parameters()}


def whole(p: Tensor) -> Tensor:
    full = p.full_tensor() if isinstance(p, DTensor) else p
    return full.detach().clone()


def case_of(case: str, contender: Contender, rank: int) -> Any:
    if case == "statistics of batches":
        return spread(contender, contender.make, rank, "batchnorm-cnn")
    whole = case == "whole batch"
    return spread(contender, contender.given, rank, "mlp") if whole else sharded(contender, rank)


CASES = ("statistics of batches", "whole batch", "sharded")


def outcome(case: str, contender: Contender, rank: int, store: Path) -> Any:
    """One case in a process group of its own, which no failure outlives."""
    distributed.init_process_group(
        "gloo", store=distributed.FileStore(str(store), RANKS), rank=rank, world_size=RANKS, timeout=LIMIT
    )
    try:
        return case_of(case, contender, rank)
    except Exception as error:
        return Refusal(error)
    finally:
        distributed.destroy_process_group()


class Refusal:
    """An error that was raised on a rank, in words, since not every error can be sent between processes."""

    def __init__(self, error: Exception) -> None:
        self.sentence, self.of_value = (str(error), True) if isinstance(error, ValueError) else (said(error), False)

    def again(self) -> Exception:
        return ValueError(self.sentence) if self.of_value else Failed(self.sentence)


def work(rank: int, folder: str, names: Iterable[str]) -> None:
    """All cases of all contenders, on one of the processes."""
    from ocnopt_lab.acceptance.contenders import get

    torch.set_num_threads(1)
    meet(rank, Path(folder) / "start")
    found = {
        (name, case): outcome(case, get(name), rank, Path(folder) / f"{name}-{case}".replace(" ", "-"))
        for name in names
        for case in CASES
    }
    torch.save(found, Path(folder) / f"{rank}.pt")


def meet(rank: int, store: Path) -> None:
    """Wait for the other process, which may have been slower in its imports."""
    there = distributed.FileStore(str(store), RANKS)
    there.set(f"{rank}", "there")
    there.wait([f"{other}" for other in range(RANKS)], START)


def find(names: tuple[str, ...], folder: Path) -> Found:
    """Start the processes and wait for them."""
    multiprocessing.spawn(work, (str(folder), names), RANKS)
    return read(folder)


def read(folder: Path) -> Found:
    """What the processes have left in the folder."""
    ranks = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)]
    return {key: [found[key] for found in ranks] for key in ranks[0]}


def answers(contender: Contender, bench: Bench, case: str) -> list[Any]:
    """What the ranks found; raises what was raised on any of them."""
    answers = bench.found[contender.name, case]
    for answer in answers:
        if isinstance(answer, Refusal):
            raise answer.again()
    return answers


def parallel(contender: Contender, bench: Bench) -> None:
    """The ranks have the same bits, and are one process with the whole batch up to rounding."""
    start = weights(contender.run(plain_sgd, "batchnorm-cnn").model)
    for case in ("statistics of batches", "whole batch"):
        first, second = answers(contender, bench, case)
        require(same(first, second), f"{case}: the ranks have different weights")
        moved_and_finite({}, first)
        require(case == "whole batch" or not same(start, first), "nothing moves")
    as_in_one_process(contender, first)


def as_in_one_process(contender: Contender, found: dict[str, Tensor]) -> None:
    there = weights(contender.run(contender.given).train(range(STEPS)).model)
    far = apart(found.values(), there.values())
    require(far < rounding(contender), f"weights differ from those of one process with all samples by {far:.1e}")


def shards(contender: Contender, bench: Bench) -> None:
    """Refused in one sentence when the optimizer is built, or trained to the weights of one process."""
    first, second = answers(contender, bench, "sharded")
    if isinstance(first, str):
        one = len(first) > 20 and "\n" not in first and first == second
        require(one, f"refused with {first!r}, which tells a user nothing")
    else:
        require(same(first, second), "the ranks have put together different weights")
        as_in_one_process(contender, first)
