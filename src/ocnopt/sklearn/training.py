"""How the estimators train: the whole batch by measured coupled steps, or parts of it by the stochastic defaults."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..optim import OCNOpt

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs (N, k) and targets to their mean loss."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "softplus": nn.Softplus,
    "logistic": nn.Sigmoid,
    "identity": nn.Identity,
}


class Data(NamedTuple):
    """Inputs (N, d) and targets, (N, k) or class numbers (N,)."""

    x: Tensor
    y: Tensor

    def at(self, rows: Tensor) -> Data:
        return Data(self.x[rows], self.y[rows])


@dataclass(frozen=True)
class Plan:
    """batch: samples of a step, None for all.  decay: γ of ½γ|θ|².  patience: iterations without a gain of ``tol``,
    relative to the best loss, after which training ends.
    """

    batch: int | None
    decay: float
    max_iter: int
    tol: float
    patience: int
    seed: int


@dataclass
class Told:
    """losses: of training, one for each iteration.  held_out: of the validation part, if there is one.

    converged: whether training ended by itself.
    """

    losses: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    converged: bool = False


def network(sizes: Sequence[int], activation: str, seed: int) -> nn.Sequential:
    """Linear layers with the activation between them, in float64, drawn from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for n_in, n_out in pairwise(sizes):
            layers += [nn.Linear(n_in, n_out, dtype=torch.float64), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


class Patience:
    """How long nothing has been gained.  best: the lowest value so far."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.best, self.waited = plan, math.inf, 0

    def gains(self, value: float) -> bool:
        """Whether the value is the lowest so far."""
        enough = math.isinf(self.best) or value < self.best - self.plan.tol * abs(self.best)
        self.waited = 0 if enough else self.waited + 1
        lower = value < self.best
        self.best = min(value, self.best)
        return lower

    @property
    def over(self) -> bool:
        return self.waited >= self.plan.patience


def train(net: nn.Module, loss: Loss, data: Data, held_out: Data | None, plan: Plan) -> Told:
    """Train until nothing is gained any more; with a held-out part, end with the parameters that were best on it."""
    told, patience, best = Told(), Patience(plan), copy.deepcopy(net.state_dict())
    for value in islice(iterations(net, loss, data, plan), plan.max_iter):
        told.losses.append(value)
        if held_out is not None:
            told.held_out.append(evaluated(net, loss, held_out))
        lower = patience.gains((told.held_out or told.losses)[-1])
        if lower and held_out is not None:
            best = copy.deepcopy(net.state_dict())
        if patience.over:
            break
    told.converged = patience.over or len(told.losses) < plan.max_iter
    if held_out is not None:
        net.load_state_dict(best)
    return told


def iterations(net: nn.Module, loss: Loss, data: Data, plan: Plan) -> Iterator[float]:
    return whole(net, loss, data, plan) if plan.batch is None else in_parts(net, loss, data, plan)


def whole(net: nn.Module, loss: Loss, data: Data, plan: Plan) -> Iterator[float]:
    """One measured step at a time; yields the loss behind it, and ends where no step can be seen any more."""
    optimizer = OCNOpt(net, curvature="sgd", value="coupled", search="levenberg-marquardt", weight_decay=plan.decay)

    def closure() -> Tensor:
        optimizer.zero_grad()
        output = net(data.x)
        value = loss(output, data.y)
        optimizer.backward(value, output)
        return value

    while True:
        optimizer.step(closure)
        outcome = optimizer.last_step
        assert outcome is not None
        yield outcome.loss
        if not outcome.accepted and outcome.reason.startswith("converged"):
            break
    optimizer.remove_hooks()


def in_parts(net: nn.Module, loss: Loss, data: Data, plan: Plan) -> Iterator[float]:
    """One epoch at a time; yields its mean loss."""
    optimizer = OCNOpt(net, weight_decay=plan.decay, seed=plan.seed)
    draws = torch.Generator().manual_seed(plan.seed)
    while True:
        total = 0.0
        for rows in torch.randperm(len(data.x), generator=draws).split(plan.batch or len(data.x)):
            part = data.at(rows)
            optimizer.zero_grad()
            output = net(part.x)
            value = loss(output, part.y)
            optimizer.backward(value, output)
            optimizer.step()
            total += float(value.detach()) * len(rows)
        yield total / len(data.x)


def evaluated(net: nn.Module, loss: Loss, data: Data) -> float:
    """The loss without a trace in the optimizer, which listens in training only."""
    net.eval()
    with torch.no_grad():
        value = float(loss(net(data.x), data.y))
    net.train()
    return value
