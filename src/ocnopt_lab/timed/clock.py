"""Only the training is on the clock, not what is measured of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

FIRST, GROWTH = 0.01, 1.17
"""The first mark as a share of the seconds, and from mark to mark a factor: some thirty of them."""


class Clock:
    """Seconds spent so far; runs between ``start`` and ``stop`` alone.

    Of the processor: with one thread those of the wall on an idle machine, and neighbours do not count.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.spent, self.started = seconds, 0.0, 0.0

    def start(self) -> None:
        self.started = time.process_time()

    def stop(self) -> None:
        self.spent += time.process_time() - self.started

    @property
    def share(self) -> float:
        """How much of the seconds is gone, also while it runs."""
        return (self.spent + time.process_time() - self.started) / self.seconds


class Measured(NamedTuple):
    """Loss of training, the error that counts, and a loss to stop by, where some data are kept for that."""

    loss: float
    error: float
    validation: float = math.inf


@dataclass(frozen=True)
class Mark:
    """What was measured after so many seconds and steps; see ``Measured``."""

    seconds: float
    steps: int
    loss: float
    error: float
    validation: float = math.inf


def train(steps: Iterator[object], clock: Clock, measure: Callable[[], Measured]) -> list[Mark]:
    """Marks at about thirty moments, evenly in the logarithm of the time, and at the end.

    steps: takes one step at each turn, and ends where its method has nothing left to do. A step that has begun when
    the seconds are over is finished.
    """
    marks, due, count = list[Mark](), FIRST * clock.seconds, 0
    while clock.spent < clock.seconds:
        clock.start()
        ended = next(steps, clock) is clock
        clock.stop()
        if ended:
            break
        count += 1
        if clock.spent >= min(due, clock.seconds):
            marks.append(Mark(clock.spent, count, *measure()))
            due = GROWTH * clock.spent
    return [*marks, Mark(clock.spent, count, *measure())]
