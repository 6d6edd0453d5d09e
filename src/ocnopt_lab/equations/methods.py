"""Ways to train a residual for some seconds; only the training is on the clock, not what is measured of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ocnopt import OCNOpt
from ocnopt.core.acceptance import LevenbergMarquardt
from ocnopt.pde import Residual

Steps = Iterator[float]
"""One step at each turn; yields the loss before it."""
Trainer = Callable[[Residual, "Clock"], Steps]

ADAM_SHARE = 0.5
"""Of the seconds, before L-BFGS takes over."""


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


@dataclass(frozen=True)
class Mark:
    """After so many seconds and steps: the loss, and the error where somebody looked."""

    seconds: float
    steps: int
    loss: float
    error: float


def train(model: Residual, trainer: Trainer, error: Callable[[Residual], float], seconds: float) -> list[Mark]:
    """Marks at about thirty moments, evenly in the logarithm of the time, and at the end."""
    clock, marks, due, count = Clock(seconds), list[Mark](), 0.01 * seconds, 0
    steps = trainer(model, clock)
    while clock.spent < seconds:
        clock.start()
        loss = next(steps, None)
        clock.stop()
        if loss is None:
            break
        count += 1
        if clock.spent >= min(due, seconds):
            marks.append(Mark(clock.spent, count, loss, error(model)))
            due = 1.17 * clock.spent
    return [*marks, Mark(clock.spent, count, loss_of(model).item(), error(model))]


def loss_of(model: Residual) -> Tensor:
    return model(*model.samples).square().mean()


def ocnopt(model: Residual, clock: Clock) -> Steps:
    """Coupled, exact Gauss-Newton, Levenberg-Marquardt; until it has converged."""
    search = LevenbergMarquardt(smallest=1e-16)
    optimizer = OCNOpt(model, curvature="sgd", value="coupled", terminal="gauss-newton", search=search)
    samples = model.samples

    def closure() -> Tensor:
        optimizer.zero_grad()
        residual = model(*samples)
        loss = residual.square().mean()
        optimizer.backward(loss, residual)
        return loss

    while True:
        yield optimizer.step(closure).item()
        outcome = optimizer.last_step
        if outcome is not None and outcome.reason.startswith("converged"):
            return


def adam(lr: float, until: float = 1.0) -> Trainer:
    """Adam on all points, its rate falling linearly to zero over the time it has."""

    def steps(model: Residual, clock: Clock) -> Steps:
        optimizer, samples = torch.optim.Adam(model.parameters(), lr=lr), model.samples
        while clock.share < until:
            optimizer.param_groups[0]["lr"] = lr * (1 - clock.share / until)
            optimizer.zero_grad()
            loss = model(*samples).square().mean()
            loss.backward()
            optimizer.step()
            yield loss.item()

    return steps


def lbfgs(model: Residual, clock: Clock) -> Steps:
    """torch's L-BFGS with the strong Wolfe conditions, ten iterations at a time; until it moves no more."""
    optimizer = torch.optim.LBFGS(
        model.parameters(),
        max_iter=10,
        history_size=100,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )
    samples = model.samples

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(*samples).square().mean()
        loss.backward()
        return loss

    while True:
        before = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
        yield optimizer.step(closure).item()
        if torch.equal(before, torch.nn.utils.parameters_to_vector(model.parameters())):
            return


def adam_lbfgs(lr: float) -> Trainer:
    """Adam for ``ADAM_SHARE`` of the seconds, then L-BFGS."""

    def steps(model: Residual, clock: Clock) -> Steps:
        yield from adam(lr, ADAM_SHARE)(model, clock)
        yield from lbfgs(model, clock)

    return steps


def methods(rates: tuple[float, ...]) -> dict[str, Trainer]:
    """By name."""
    swept = {f"adam-{lr:g}": adam(lr) for lr in rates}
    mixed = {f"adam-{lr:g}-lbfgs": adam_lbfgs(lr) for lr in rates}
    return {"ocnopt": ocnopt, **swept, "lbfgs": lbfgs, **mixed}
