"""Stochastic differential equations by torchsde: drift and diffusion are players like all others.

Discretise, then optimise: the solver's steps are the graph, so layers hear their share of every step at once.
"""

from __future__ import annotations

import math

import pytest
import torch
from flow_cases import linears, pulled
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.ode import one_solve

torchsde = pytest.importorskip("torchsde", reason="torchsde is not installed: pip install 'ocnopt[sde]'")

PATHS, DT = 400, 1 / 20


class Process(nn.Module):
    """dX = f(X) dt + g(X) dW from X(0) = x, read off at the given times."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, drift: nn.Module, diffusion: nn.Module, times: tuple[float, ...]) -> None:
        super().__init__()
        self.drift, self.diffusion = drift, diffusion
        self.times = torch.tensor((0.0, *times), dtype=torch.float64)

    def f(self, t: Tensor, x: Tensor) -> Tensor:
        return self.drift(x)

    def g(self, t: Tensor, x: Tensor) -> Tensor:
        return self.diffusion(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, times) of one-dimensional starts x (B, 1), along paths that are always the same."""
        noise = torchsde.BrownianInterval(0.0, float(self.times[-1]), size=x.shape, dtype=x.dtype, entropy=0)
        with one_solve():
            return torchsde.sdeint(self, x, self.times, dt=DT, method="euler", bm=noise)[1:, :, 0].T


def process(times: tuple[float, ...] = (0.5, 1.0, 1.5)) -> Process:
    torch.manual_seed(0)
    made = Process(nn.Linear(1, 1), nn.Linear(1, 1), times).double()
    with torch.no_grad():
        made.diffusion.bias.fill_(1.0)
        made.diffusion.weight.zero_()
    return made


def test_the_pull_of_drift_and_diffusion_is_their_gradient() -> None:
    model = process()
    optimizer = OCNOpt(model, feedback_samples=None)
    model(torch.ones(6, 1, dtype=torch.float64)).square().mean().backward()
    for layer in linears(model):
        calls = optimizer.capture.calls[layer]
        assert len(calls) == 30 and all(call.share == 1 / 30 for call in calls)
        W, b = pulled(layer, calls)
        torch.testing.assert_close(W, layer.weight.grad)
        torch.testing.assert_close(b, layer.bias.grad)
        without_one, _ = pulled(layer, calls[1:])
        assert not torch.allclose(without_one, layer.weight.grad)


def moments(pull: float, centre: float, sigma: float, start: float, t: float) -> tuple[float, float]:
    """Mean and variance of the Ornstein-Uhlenbeck process dX = a(m − X) dt + σ dW from X(0) = x:

    m + (x − m) exp(−a t),   σ²/(2a) (1 − exp(−2 a t)).
    """
    return centre + (start - centre) * math.exp(-pull * t), sigma**2 / (2 * pull) * (1 - math.exp(-2 * pull * t))


def test_the_parameters_of_an_ornstein_uhlenbeck_process_are_found_from_its_moments() -> None:
    """a = 1.2, m = 0.5, σ = 0.6 from means and variances at three times; 400 paths and steps of 0.05 leave 10 %."""
    model, start = process(), 2.0
    known = torch.tensor([moments(1.2, 0.5, 0.6, start, float(t)) for t in model.times[1:]], dtype=torch.float64)
    x = torch.full((PATHS, 1), start, dtype=torch.float64)
    optimizer = OCNOpt(model, terminal="gradient")
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        paths = model(x)
        loss = (paths.mean(0) - known[:, 0]).square().sum() + (paths.var(0) - known[:, 1]).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 1e-3 < losses[0]
    drift, diffusion = model.drift, model.diffusion
    pull = -float(drift.weight.detach())
    assert pull == pytest.approx(1.2, rel=0.1)
    assert float(drift.bias.detach()) / pull == pytest.approx(0.5, abs=0.1)
    there = float(diffusion(torch.full((1, 1), 0.9, dtype=torch.float64)).detach())
    assert abs(there) == pytest.approx(0.6, rel=0.1)
    assert all(row.feedback for row in optimizer.coverage())
