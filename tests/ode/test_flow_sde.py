"""Stochastic differential equations by torchsde: drift and diffusion are players like all others.

Discretise, then optimise: the solver's steps are the graph, so layers hear their share of every step at once.
"""

from __future__ import annotations

import pytest
import torch
from flow_cases import pulled
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.ode import one_solve

torchsde = pytest.importorskip("torchsde", reason="torchsde is not installed: pip install 'ocnopt[sde]'")

STEPS, CENTRE = 16, 0.5


class Controlled(nn.Module):
    """dX = u(X) dt + g(X) dW on [0, 1], and beside it the running cost ½ (u² + (X − m)² + (g − 1)²).

    With ½ (X(1) − m)² at the end, the Hamilton-Jacobi-Bellman equation has the value V = ½ (x − m)² + (1 − t)/4:

        −V_t = min_{u,g} ½ (u² + (x − m)² + (g − 1)²) + V_x u + ½ V_xx g²   ⇒   u = −(x − m),  g = 1/2.
    """

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self) -> None:
        super().__init__()
        self.drift, self.diffusion = nn.Linear(1, 1), nn.Linear(1, 1)

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        x = y[:, :1]
        u, g = self.drift(x), self.diffusion(x)
        return torch.cat([u, 0.5 * (u**2 + (x - CENTRE) ** 2 + (g - 1) ** 2)], dim=1)

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        g = self.diffusion(y[:, :1])
        return torch.cat([g, torch.zeros_like(g)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(X(1), running cost) from starts x (B, 1), along Brownian paths that are always the same."""
        noise = torchsde.BrownianInterval(0.0, 1.0, size=(len(x), 2), dtype=x.dtype, entropy=0)
        start, times = torch.cat([x, torch.zeros_like(x)], dim=1), x.new_tensor([0.0, 1.0])
        with one_solve():
            return torchsde.sdeint(self, start, times, dt=1 / STEPS, method="euler", bm=noise)[-1]


def cost(end: Tensor) -> Tensor:
    return (end[:, 1] + 0.5 * (end[:, 0] - CENTRE) ** 2).mean()


def process() -> Controlled:
    torch.manual_seed(0)
    return Controlled().double()


def starts(n: int) -> Tensor:
    return 2 * torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_pull_of_drift_and_diffusion_is_their_gradient() -> None:
    """In each step the drift is called once, the diffusion once for the noise and once for its cost.

    torchsde calls both once more, to see their shapes.
    """
    model = process()
    optimizer = OCNOpt(model)
    cost(model(starts(6))).backward()
    for layer, n in ((model.drift, STEPS), (model.diffusion, 2 * STEPS)):
        calls = optimizer.capture.calls[layer]
        assert len(calls) == n and all(1 / n >= call.share >= 1 / (n + 2) for call in calls)
        W, b = pulled(layer, calls)
        torch.testing.assert_close(W, layer.weight.grad)
        torch.testing.assert_close(b, layer.bias.grad)
        without_one, _ = pulled(layer, calls[1:])
        assert not torch.allclose(without_one, layer.weight.grad)


def test_training_finds_the_known_control_and_its_value() -> None:
    """256 paths of 16 steps leave errors of some hundredths."""
    model, x = process(), starts(256)
    optimizer = OCNOpt(model, terminal="gauss-newton")
    for _ in range(40):
        optimizer.zero_grad()
        end = model(x)
        loss = cost(end)
        optimizer.backward(loss, end)
        optimizer.step()
    known = {"drift.weight": -1.0, "drift.bias": CENTRE, "diffusion.weight": 0.0, "diffusion.bias": 0.5}
    for name, value in known.items():
        assert float(model.get_parameter(name).detach()) == pytest.approx(value, abs=0.1), name
    value = float(0.5 * (x - CENTRE).square().mean()) + 0.25
    assert float(loss.detach()) == pytest.approx(value, rel=0.06)
    assert all(row.feedback and row.player == "linear" for row in optimizer.coverage())
