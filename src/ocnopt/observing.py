"""A look into one step: what each layer proposed and in which metric, what became of it, and where the time went.

Only a step that was asked for is looked into (``OCNOpt.observe``); any other meets ``Blind``, which does nothing.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from .core.bellman import Gain, Problem, backward_pass
from .core.policy import Step
from .core.protocols import Params
from .core.stage import minus, plus
from .core.turned import plain_gain
from .curvature.conditioning import conditions
from .curvature.metrics import EigenMetric
from .game.coalition import Side
from .gathering import Turn

REST, OBSERVING = "the rest", "observing"
NOTHING = nullcontext()


class Blind:
    """Sees nothing, and costs nothing."""

    def timing(self) -> AbstractContextManager[None]:
        return NOTHING

    def phase(self, name: str) -> AbstractContextManager[None]:
        return NOTHING

    def moving(self, turns: Sequence[Turn]) -> AbstractContextManager[None]:
        return NOTHING

    def gains(self, problem: Problem) -> Sequence[Gain]:
        return ()

    def proposed(self, problem: Problem, sides: Sequence[Side], gains: Sequence[Gain], steps: Sequence[Step]) -> None:
        pass

    def figures(self) -> dict[str, float]:
        return {}


def recursion(problem: Problem) -> list[Gain]:
    """The backward pass in the precision of the stages, of a problem whose system is made in double."""
    return backward_pass(replace(problem, blocks=problem.blocks.to(problem.stages[0].precision)))


class Watch(Blind):
    """Looks into one step. It changes nothing of the step, but for the time that it takes.

    layers: per path of a layer, its quantities.  stopwatch: where the time goes; its own does not count.
    """

    def __init__(self, devices: Iterable[torch.device]) -> None:
        self.stopwatch = Stopwatch(devices)
        self.layers: dict[str, dict[str, float]] = {}
        self.policies: dict[str, dict[str, float]] = {}

    @contextmanager
    def timing(self) -> Iterator[None]:
        """The whole step."""
        self.stopwatch.start()
        yield
        self.stopwatch.switch(REST)

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A part of the step; of nested ones the inner counts."""
        return self.stopwatch.phase(name)

    @contextmanager
    def moving(self, turns: Sequence[Turn]) -> Iterator[None]:
        """Everything between the gradients and the new parameters of the turns."""
        with self.phase(OBSERVING):
            before = [[p.detach().clone() for p in turn.params] for turn in turns]
        yield
        with self.phase(OBSERVING):
            for turn, old in zip(turns, before, strict=True):
                policy = self.policies.get(turn.seat.path) or by_itself(turn)
                told = policy | metric_of(turn) | move_of(turn.params, old)
                self.layers[turn.seat.name] = {name: x for name, x in told.items() if math.isfinite(x)}

    def gains(self, problem: Problem) -> Sequence[Gain]:
        """Of the recursion, for a step that was found by another way."""
        with self.phase(OBSERVING):
            return recursion(problem)

    def proposed(self, problem: Problem, sides: Sequence[Side], gains: Sequence[Gain], steps: Sequence[Step]) -> None:
        """What every layer wants to do, by itself and in reaction to the others; without gains, by itself alone."""
        with self.phase(OBSERVING):
            opens = [plain_gain(gain).k for gain in gains] or [step.step for step in steps]
            shrinks = shrinks_of(problem, gains) or [{}] * len(steps)
            self.policies = {}
            for side, k, step, shrink in zip(sides, opens, steps, shrinks, strict=True):
                parts = zip(side.members, side.divided(k), side.divided(step.step), strict=True)
                self.policies |= {member.label: reaction(own, d) | shrink for member, own, d in parts}

    def figures(self) -> dict[str, float]:
        """Everything seen, flat: "layer/quantity", and shares of the time. Empty where no parameter was to move."""
        if not self.layers:
            return {}
        flat = {f"{path}/{name}": x for path, told in self.layers.items() for name, x in told.items()}
        return flat | self.stopwatch.shares()


class Switch(ABC):
    """Something is in one phase at a time, and phases may lie inside others."""

    @abstractmethod
    def switch(self, name: str) -> str:
        """From now on it is the phase ``name``; the one before."""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before = self.switch(name)
        try:
            yield
        finally:
            self.switch(before)


class Stopwatch(Switch):
    """Seconds by phase, each without those of the phases inside it.

    devices: that are waited for at every switch, since they work on while Python goes ahead.
    """

    def __init__(self, devices: Iterable[torch.device] = ()) -> None:
        self.devices = {device for device in devices if device.type not in ("cpu", "meta")}
        self.start()

    def start(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.name, self.since = REST, self.now()

    def now(self) -> float:
        for device in self.devices:
            torch.accelerator.synchronize(device)
        return time.perf_counter()

    def switch(self, name: str) -> str:
        """From now on the time is that of ``name``; the phase before."""
        now = self.now()
        self.seconds[self.name] += now - self.since  # type: ignore[assignment]
        before, self.name, self.since = self.name, name, now
        return before

    def shares(self) -> dict[str, float]:
        """Share of every phase in the whole, and the whole in seconds; that of the observer is no part of it."""
        spent = {name: seconds for name, seconds in self.seconds.items() if name != OBSERVING}
        total = sum(spent.values())
        return {f"time in {name}": x / total for name, x in spent.items()} | {"step seconds": total}


def reaction(k: Params, step: Params) -> dict[str, float]:
    """Lengths of the open-loop step k and of what the feedback adds to it, K δx = δθ − k, and their ratio."""
    alone, added = norm(k), norm(plus(step, minus(k)))
    return {"open loop": alone, "feedback": added} | ratio("feedback gain", added, alone)


def by_itself(turn: Turn) -> dict[str, float]:
    """Length of the step of a layer outside the feedback; nothing where a diagonal's rule makes none."""
    return {"open loop": norm(turn.step)} if turn.step else {}


def shrinks_of(problem: Problem, gains: Sequence[Gain]) -> list[dict[str, float]]:
    """‖C‖ before every stage over ‖C‖ behind it, in forward order."""
    sizes = [norm((C,)) for C in (*(gain.before for gain in gains), problem.C)] if gains else [0.0]
    return [ratio("shrink", before, behind) for before, behind in pairwise(sizes)]


def metric_of(turn: Turn) -> dict[str, float]:
    """Condition numbers of its metric, and the λ that is in it where it is a Kronecker one."""
    damping = turn.metric.damping if isinstance(turn.metric, EigenMetric) else turn.state.get("damping")
    held = {"damping": float(damping)} if turn.kronecker and damping is not None else {}
    return held | conditions(turn.metric, turn.state)


def move_of(params: Sequence[Tensor], old: Sequence[Tensor]) -> dict[str, float]:
    """How far the parameters have moved, momentum and decay included, and that relative to their own length."""
    moved, length = norm([p - o for p, o in zip(params, old, strict=True)]), norm(old)
    return {"update": moved} | ratio("update to weight", moved, length)


def ratio(name: str, part: float, whole: float) -> dict[str, float]:
    """Nothing where the whole is zero."""
    return {name: part / whole} if whole else {}


def norm(tensors: Sequence[Tensor]) -> float:
    """Euclidean length of all entries together."""
    lengths = [torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32)) for x in tensors]
    return math.hypot(*(float(x) for x in lengths))


BLIND = Blind()
