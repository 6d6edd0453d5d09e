"""Vector fields and models of the tests, in float64, and the obvious ways to what the library computes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from ocnopt.core.capture import Capture, Slot
from ocnopt.ode import NeuralODE
from ocnopt.ode.solver import Solver

EXACT: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}
FINE: dict[str, Any] = {"solver": "rk4", "options": {"step_size": 1 / 32}}


class Tanh(nn.Module):
    """F(t, x) = W₂ tanh(W₁ [x, t] + b₁) + b₂."""

    def __init__(self, n: int = 3, hidden: int = 4, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.inner, self.outer = nn.Linear(n + 1, hidden).double(), nn.Linear(hidden, n).double()

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        time = t.to(x.dtype).expand(len(x), 1)
        return self.outer(torch.tanh(self.inner(torch.cat([x, time], dim=1))))


class Counted(nn.Module):
    """A field that counts its evaluations by itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        self.calls += 1
        return self.inner(t, x)


def batch(size: int = 5, n: int = 3, seed: int = 1) -> Tensor:
    return torch.randn(size, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def encoder_ode_decoder(**options: Any) -> nn.Sequential:
    """Linear → ODE → Linear for two classes in two features."""
    torch.manual_seed(3)
    ends = nn.Linear(2, 3).double(), nn.Linear(3, 3).double()
    return nn.Sequential(ends[0], NeuralODE(Tanh(), 0.0, 1.2, **options), ends[1])


def captured(model: nn.Module) -> Capture:
    """A capture of all Linear layers of a model."""
    return Capture(model.train(), {m: Slot(width=m.out_features) for m in model.modules() if isinstance(m, nn.Linear)})


def flow_map(field: nn.Module, x: Tensor, t1: float, steps: int = 64) -> Tensor:
    """x(t1) by classical Runge-Kutta steps from 0, written out."""
    h = t1 / steps
    for j in range(steps):
        t = torch.tensor(j * h, dtype=x.dtype)
        k1 = field(t, x)
        k2 = field(t + h / 2, x + h / 2 * k1)
        k3 = field(t + h / 2, x + h / 2 * k2)
        k4 = field(t + h, x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def parameter_jacobian(field: nn.Module, x: Tensor, t1: float) -> Tensor:
    """∂x_i(t1)/∂θ of every sample, (B, n, parameters), by differentiating the written-out steps."""
    θ = dict(field.named_parameters())

    def end(θ: Any) -> Tensor:
        return flow_map(lambda t, y: functional_call(field, θ, (t, y)), x, t1)

    parts = jacrev(end)({name: p.detach() for name, p in θ.items()})
    return torch.cat([parts[name].flatten(2) for name in θ], dim=2)


def gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


def solver(**options: Any) -> Solver:
    given = {**FINE, **options}
    return Solver(given.pop("solver"), **given)
