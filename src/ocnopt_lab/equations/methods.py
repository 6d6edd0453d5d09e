"""Ways to train a residual for some seconds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ocnopt.pde import Residual
from ocnopt_lab.timed import Clock, Fit, Mark, Measured
from ocnopt_lab.timed import train as train_for
from ocnopt_lab.timed.methods import Method, adam, coupled, lbfgs, then_lbfgs


def mean_square(residual: Tensor, zeros: Tensor) -> Tensor:
    return (residual - zeros).square().mean()


def fit_of(model: Residual) -> Fit:
    """All residuals at once, which ought to be zero."""
    points, _ = model.samples
    return Fit(model, model.samples, points.new_zeros(len(points), 1), mean_square)


def train(model: Residual, method: Method, error: Callable[[Residual], float], seconds: float) -> list[Mark]:
    fit, clock = fit_of(model), Clock(seconds)

    def measure() -> Measured:
        with torch.no_grad():
            return Measured(fit.forward()[0].item(), error(model))

    return train_for(method(fit, clock), clock, measure)


def methods(rates: tuple[float, ...]) -> dict[str, Method]:
    """By name."""
    swept = {f"adam-{lr:g}": adam(lr) for lr in rates}
    mixed = {f"adam-{lr:g}-lbfgs": then_lbfgs(lr) for lr in rates}
    return {"ocnopt": coupled, **swept, "lbfgs": lbfgs, **mixed}
