"""A long run: whether memory or the number of hooks grows with the steps."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from ocnopt_lab.reliability.harness import hooks_of, looped
from ocnopt_lab.reliability.networks import FAMILIES


@dataclass(frozen=True)
class Mark:
    """After so many steps: resident memory in MiB, hooks of the model, tensors in the optimizer's state."""

    step: int
    memory: float
    hooks: int
    tensors: int


def soak(steps: int, marks: int = 10, done: Callable[[int], None] = lambda n: None) -> list[Mark]:
    """Marks along a run of the defaults on a small convolutional network, the first after a tenth of the steps."""
    loop, found = looped(FAMILIES["images"], random.Random(5)), []
    process = psutil.Process()
    for number in range(1, steps + 1):
        loop.step(number)
        if number % (steps // marks) == 0:
            gc.collect()
            tensors = sum(len(state) for state in loop.optimizer.state.values())
            found.append(Mark(number, process.memory_info().rss / 2**20, hooks_of(loop.model), tensors))
            done(number)
    return found
