"""Seconds of coupled steps, of Adam's, and of the algebra that coupled steps need."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ocnopt import OCNOpt

BLOCK = 512


@dataclass(frozen=True)
class Case:
    """A network 2-w-w-w-w-outputs with tanh on so many rows."""

    width: int
    rows: int
    outputs: int = 1

    @property
    def sizes(self) -> tuple[int, ...]:
        return (2, *[self.width] * 4, self.outputs)

    @property
    def parameters(self) -> int:
        return sum((n + 1) * m for n, m in pairwise(self.sizes))


@dataclass(frozen=True)
class Cost:
    """Seconds: of a step with one try, of Adam's step on the same samples, and of the algebra alone."""

    width: int
    rows: int
    outputs: int
    parameters: int
    step: float
    adam: float
    algebra: float


def cost_of(case: Case, repeats: int) -> Cost:
    whole, adam, algebra = stepping(case), adam_stepping(case), algebra_of(case)
    times = [median_of(call, repeats) for call in (whole, adam, algebra)]
    return Cost(case.width, case.rows, case.outputs, case.parameters, *times)


def median_of(call: Callable[[], object], repeats: int) -> float:
    """Seconds of a call, after one that warms up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def fit_of(case: Case) -> tuple[nn.Sequential, Tensor, Tensor]:
    torch.manual_seed(0)
    layers = [part for n, m in pairwise(case.sizes) for part in (nn.Linear(n, m), nn.Tanh())]
    x = torch.rand(case.rows, 2, dtype=torch.float64) * 2 - 1
    y = torch.sin(torch.stack([(j + 2) * x[:, 0] + x[:, 1] for j in range(case.outputs)], 1))
    return nn.Sequential(*layers[:-1]).double(), x, y


def stepping(case: Case) -> Callable[[], object]:
    """One step at a time, from the first of a training on, where λ is large and no try is refused."""
    net, x, y = fit_of(case)
    optimizer = OCNOpt(net, curvature="sgd", value="coupled", terminal="gauss-newton", search="levenberg-marquardt")

    def closure() -> Tensor:
        optimizer.zero_grad()
        output = net(x)
        loss = nn.functional.mse_loss(output, y)
        optimizer.backward(loss, output)
        return loss

    return lambda: optimizer.step(closure)


def adam_stepping(case: Case) -> Callable[[], object]:
    net, x, y = fit_of(case)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()

    return step


def algebra_of(case: Case) -> Callable[[], object]:
    """Two products for every layer, by half, and one factorisation with its solve."""
    R = case.rows * case.outputs
    factors = [
        (torch.randn(R, n + 1, dtype=torch.float64), torch.randn(R, m, dtype=torch.float64))
        for n, m in pairwise(case.sizes)
    ]
    A = torch.eye(R, dtype=torch.float64)

    def work() -> Tensor:
        for pair in factors:
            for X in pair:
                for start in range(0, R, BLOCK):
                    X[start : start + BLOCK] @ X[: start + BLOCK].mT
        return torch.cholesky_solve(A[:, :1], torch.linalg.cholesky(A))

    return work
