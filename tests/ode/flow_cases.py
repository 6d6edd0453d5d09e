"""Small flows in float64, what their layers are to hear, and loops that say it plainly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ocnopt.core.capture import Capture, Slot
from ocnopt.core.trajectory import Call
from ocnopt.ode import ConcatSquash, Field

STEPS, DIM, BATCH = 4, 2, 5


def field(kind: type[nn.Module] = ConcatSquash, hidden: tuple[int, ...] = (4,)) -> Field:
    torch.manual_seed(0)
    return Field(DIM, hidden, kind).double()


def samples(n: int = BATCH) -> Tensor:
    return torch.randn(n, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def linears(model: nn.Module) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


def captured(model: nn.Module) -> Capture:
    return Capture(model, {module: Slot() for module in linears(model)})


def pulled(module: nn.Module, calls: list[Call]) -> tuple[Tensor, Tensor]:
    """Σ u zᵀ and Σ u over all calls."""
    return sum(call.v.T @ call.z for call in calls), sum(call.v.sum(0) for call in calls)  # type: ignore[return-value]


def trace_by_rows(F: nn.Module, t: Tensor, x: Tensor) -> Tensor:
    """tr F_x of every sample on its own, (B,), from its full Jacobian."""
    traces = []
    for row in x.unbind(0):
        J = torch.autograd.functional.jacobian(lambda z: F(t, z[None])[0], row, create_graph=True)
        traces.append(J.diagonal().sum())
    return torch.stack(traces)


def normal_density(x: Tensor) -> Tensor:
    return torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)


class Spy:
    """Outputs of linear layers, kept with their gradient, in calls made while it is listening."""

    def __init__(self, model: nn.Module) -> None:
        self.on, self.seen = False, dict[nn.Module, list[tuple[Tensor, Tensor]]]()
        for module in linears(model):
            module.register_forward_hook(self.note)

    def note(self, module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        if self.on:
            self.seen.setdefault(module, []).append((args[0].detach(), output))

    def outputs(self) -> list[Tensor]:
        return [h for calls in self.seen.values() for _, h in calls]


def euler(F: nn.Module, x: Tensor, spy: Spy | None = None) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
    """log p(x) by Euler's method, its mean as a loss, and the points (t, x) at which the field was evaluated.

    The layers' calls within dx/dt are shown to the spy, those of the divergence are not.
    """
    change, points = x.new_zeros(len(x)), []
    for k in range(STEPS):
        t = x.new_tensor(k / STEPS)
        points.append((t, x))
        if spy is not None:
            spy.on = True
        dx = F(t, x)
        if spy is not None:
            spy.on = False
        change = change - trace_by_rows(F, t, x) / STEPS
        x = x + dx / STEPS
    log_p = normal_density(x) - change
    return log_p, -log_p.mean(), points
