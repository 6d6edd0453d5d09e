"""Ways to train: each takes one step at a turn, and ends where it has nothing left to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ocnopt import OCNOpt
from ocnopt.core.acceptance import LevenbergMarquardt
from ocnopt.core.unseen import StochasticLevenbergMarquardt

from .clock import Clock
from .fit import Fit

Method = Callable[[Fit, Clock], Iterator[None]]

COUPLED_BATCH, ROWS = 1024, 4096
"""Samples of a coupled step on a part, whose curvature is theirs alone, and the most rows: samples times outputs."""
DAMPING = 1e-2
"""λ of the first step: a hundred steps are too few to come down from 1. On batches as large it does no harm."""
ADAM_SHARE = 0.5
"""Of the seconds, before L-BFGS takes over."""


def coupled(fit: Fit, clock: Clock) -> Iterator[None]:
    """All samples: coupled, exact Gauss-Newton, Levenberg-Marquardt; until it has converged."""
    return measured(fit, LevenbergMarquardt(smallest=1e-16))


def bold(fit: Fit, clock: Clock) -> Iterator[None]:
    """The same from the smaller λ on."""
    return measured(fit, LevenbergMarquardt(start=DAMPING, smallest=1e-16))


def measured(fit: Fit, search: LevenbergMarquardt) -> Iterator[None]:
    """Coupled steps of all samples by this search, until it has converged."""
    optimizer = OCNOpt(fit.model, curvature="sgd", value="coupled", terminal="gauss-newton", search=search)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, output = fit.forward()
        optimizer.backward(loss, output)
        return loss

    while True:
        optimizer.step(closure)
        yield
        outcome = optimizer.last_step
        if outcome is not None and outcome.reason.startswith("converged"):
            return


def stochastic(fit: Fit, clock: Clock) -> Iterator[None]:
    """Parts of the samples: coupled, each step judged by the next part; in the second half the steps shrink to none."""
    search = StochasticLevenbergMarquardt(start=DAMPING)
    optimizer = OCNOpt(fit.model, curvature="sgd", value="coupled", search=search)
    batch = min(COUPLED_BATCH, ROWS // fit.targets[0].numel())
    (group,) = optimizer.param_groups

    def closure(rows: Tensor | None) -> Tensor:
        optimizer.zero_grad()
        loss, output = fit.forward(rows)
        optimizer.backward(loss, output)
        return loss

    for rows in replace(fit, batch=batch).batches():
        group["lr"] = min(1.0, 2 * max(0.005, 1 - clock.share))
        optimizer.step(partial(closure, rows))
        yield


def ours(**options: Any) -> Method:
    """Parts of the samples: OCNOpt with these options, its rate falling linearly to zero."""

    def steps(fit: Fit, clock: Clock) -> Iterator[None]:
        optimizer = OCNOpt(fit.model, seed=fit.seed, **options)
        (group,) = optimizer.param_groups
        lr = group["initial_lr"] = group["lr"]  # as a scheduler does
        for rows in fit.batches():
            group["lr"] = lr * max(0.0, 1 - clock.share)
            optimizer.zero_grad()
            loss, output = fit.forward(rows)
            optimizer.backward(loss, output)
            optimizer.step()
            yield

    return steps


ekfac = ours()
"""OCNOpt as it is when nothing is said."""


def adam(lr: float, until: float = 1.0, kind: type[torch.optim.Adam] = torch.optim.Adam) -> Method:
    """Parts of the samples; the rate falls linearly to zero over the share of the time that it has."""

    def steps(fit: Fit, clock: Clock) -> Iterator[None]:
        optimizer = kind(fit.model.parameters(), lr=lr, fused=True)
        for rows in fit.batches():
            if clock.share >= until:
                return
            optimizer.param_groups[0]["lr"] = lr * (1 - clock.share / until)
            optimizer.zero_grad()
            fit.forward(rows)[0].backward()
            optimizer.step()
            yield

    return steps


def lbfgs(fit: Fit, clock: Clock) -> Iterator[None]:
    """All samples: strong Wolfe conditions, ten iterations at a time; until it moves no more."""
    optimizer = torch.optim.LBFGS(
        fit.model.parameters(),
        max_iter=10,
        history_size=100,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, _ = fit.forward()
        loss.backward()
        return loss

    while True:
        before = torch.nn.utils.parameters_to_vector(fit.model.parameters()).detach().clone()
        optimizer.step(closure)
        yield
        if torch.equal(before, torch.nn.utils.parameters_to_vector(fit.model.parameters())):
            return


def then_lbfgs(lr: float, kind: type[torch.optim.Adam] = torch.optim.Adam) -> Method:
    """Adam for ``ADAM_SHARE`` of the seconds, then L-BFGS."""

    def steps(fit: Fit, clock: Clock) -> Iterator[None]:
        yield from adam(lr, ADAM_SHARE, kind)(fit, clock)
        yield from lbfgs(fit, clock)

    return steps
