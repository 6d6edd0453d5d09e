"""One sample and exact Gauss-Newton: the policy is textbook differential dynamic programming."""

from __future__ import annotations

from dataclasses import dataclass

import dense
import pytest
import torch
from engine import Case, close, metric, run_library
from nets import Task, make
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

from ocnopt.core import value
from ocnopt.curvature import SGD, Adam, RMSprop


@dataclass
class Dynamics:
    """x' = f(x, θ) linearised: f_x (n', n), f_θ (n', p), and the metric M (p, p)."""

    f_x: Tensor
    f_θ: Tensor
    M: Tensor


def linearised(layer: nn.Linear, squash: bool, x: Tensor, M: Tensor) -> tuple[Dynamics, Tensor]:
    """The dynamics of one stage around activation x, and the next activation."""
    names = [name for name, _ in layer.named_parameters()]
    shapes = [p.shape for p in layer.parameters()]

    def f(x: Tensor, θ: Tensor) -> Tensor:
        parts = (part.view(shape) for part, shape in zip(θ.split([s.numel() for s in shapes]), shapes, strict=True))
        h = functional_call(layer, dict(zip(names, parts, strict=True)), (x,))
        return h.tanh() if squash else h

    θ = dense.flat(list(layer.parameters())).detach()
    f_x, f_θ = jacrev(f, (0, 1))(x, θ)
    return Dynamics(f_x, f_θ, M), f(x, θ)


def rollout(case: Case, task: Task) -> tuple[list[Dynamics], Tensor]:
    """Dynamics of every stage of a chain and its output, for its only sample."""
    loss, output = task.evaluate()
    v = torch.autograd.grad(loss, output, retain_graph=True)[0].unsqueeze(0)
    x, stages = task.x[0], []
    for layer, g in zip(task.layers, dense.gradients(loss, task.layers), strict=True):
        M = metric(case, task, layer, g, v)
        stage, x = linearised(layer, layer is not task.layers[-1], x, M)
        stages.append(stage)
    return stages, x


def ddp(stages: list[Dynamics], V_x: Tensor, V_xx: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Q_θ and δθ of every stage: the Riccati recursion backward, δθ = k + K δx forward."""
    Qs: list[Tensor] = []
    gains: list[tuple[Tensor, Tensor]] = []
    for s in reversed(stages):
        Q_x, Q_θ = s.f_x.T @ V_x, s.f_θ.T @ V_x
        Q_xx, Q_θx = s.f_x.T @ V_xx @ s.f_x, s.f_θ.T @ V_xx @ s.f_x
        Q_θθ = s.f_θ.T @ V_xx @ s.f_θ + s.M
        k, K = -torch.linalg.solve(Q_θθ, Q_θ), -torch.linalg.solve(Q_θθ, Q_θx)
        V_x, V_xx = Q_x + Q_θx.T @ k, Q_xx + Q_θx.T @ K
        Qs.insert(0, Q_θ)
        gains.insert(0, (k, K))
    δx, steps = torch.zeros_like(V_x), []
    for s, (k, K) in zip(stages, gains, strict=True):
        δθ = k + K @ δx
        δx = s.f_x @ δx + s.f_θ @ δθ
        steps.append(δθ)
    return Qs, steps


def both(case: Case) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Tensor]]]:
    """(Q_θ, δθ) of every layer, by the library and by the textbook."""
    task = make(case.net, case.loss, batch=1)
    stages, h = rollout(case, task)

    def terminal(h: Tensor) -> Tensor:
        return task.loss(h.unsqueeze(0), task.y)

    textbook = ddp(stages, torch.func.grad(terminal)(h), hessian(terminal)(h))
    record = run_library(case, task)
    found = [(dense.flat(gain.Q), dense.flat(step.step)) for gain, step in zip(record.gains, record.steps, strict=True)]
    return found, list(zip(*textbook, strict=True))


@pytest.mark.parametrize("kind", ["per-sample", "coupled"])
@pytest.mark.parametrize("loss", ["cross-entropy", "mse", "bce"])
@pytest.mark.parametrize("curvature", [SGD(), RMSprop(), Adam()], ids=lambda c: type(c).__name__)
def test_one_sample_is_differential_dynamic_programming(curvature, loss: str, kind: str) -> None:
    lr = 0.4 if isinstance(curvature, SGD) else 0.02
    case = Case(net="chain", curvature=curvature, loss=loss, value=kind, terminal="gauss-newton", lr=lr)
    for t, (found, wanted) in enumerate(zip(*both(case), strict=True)):
        close(found[0], wanted[0], f"Q_θ of layer {t}")
        close(found[1], wanted[1], f"δθ of layer {t}")


@pytest.mark.parametrize("term", ["shrink", "accumulated"])
def test_notices_a_missing_term(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutations: V_xx does not shrink by Q_xθ Q_θθ⁻¹ Q_θx; the own response is not part of Q_θθ."""
    without = {"shrink": lambda C, G: C, "accumulated": lambda e, response: e}
    monkeypatch.setattr(value, term, without[term])
    with pytest.raises(AssertionError):
        for found, wanted in zip(*both(Case(terminal="gauss-newton")), strict=True):
            close(found[1], wanted[1], "δθ")
