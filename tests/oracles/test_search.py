"""The model of the step length: its bounded minimum by brute force, its curvature by dense Jacobians."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from unittest import mock

import dense
import pytest
import torch
from engine import Case, close, terminal_core
from nets import EXACT, Task, make
from scipy.optimize import Bounds, minimize
from torch import Tensor

from ocnopt import OCNOpt, searching, solving
from ocnopt.core import bellman, policy, search
from ocnopt.core.search import Quadratic
from ocnopt.curvature import EKFAC, SGD, Curvature
from ocnopt.searching import Searched

BOUNDS = [(1.0, 1.0), (1.0, 0.5), (0.3, 2.0)]
KINDS = ("definite", "singular", "zero second direction", "zero")


def quadratic(kind: str, m: int, draw: torch.Generator) -> Quadratic:
    """A random convex problem; b lies in the range of H, as it does for a direction without length."""
    root = torch.randn(m, m, generator=draw, dtype=torch.float64)
    b = torch.randn(m, generator=draw, dtype=torch.float64)
    if kind == "singular":
        root = root[:, :1] @ torch.ones(1, m, dtype=torch.float64) / m**0.5
    if kind != "definite":
        b[1:] = 0.0
    if kind == "zero second direction":
        root[1:] = 0.0
    if kind == "zero":
        root, b = 0 * root, 0 * b
    return Quadratic(b, root @ root.T)


def lowest(q: Quadratic, upper: tuple[float, ...]) -> float:
    """The smallest value on a grid, polished by scipy's bounded minimiser from its best points."""
    axes = [torch.linspace(0, top, 41, dtype=torch.float64) for top in upper]
    grid = torch.cartesian_prod(*axes).view(-1, len(upper))
    values = grid @ q.b + 0.5 * ((grid @ q.H) * grid).sum(1)

    def value(x) -> tuple[float, Tensor]:
        x = torch.as_tensor(x)
        return float(q.value(x)), (q.b + q.H @ x).numpy()

    options = {"ftol": 1e-16, "gtol": 1e-12}
    starts = grid[values.argsort()[:3]].numpy()
    fits = [minimize(value, x, jac=True, method="L-BFGS-B", bounds=Bounds(0, upper), options=options) for x in starts]
    return min(float(values.min()), *(fit.fun for fit in fits))


@pytest.mark.parametrize("upper", BOUNDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [1, 2])
def test_minimum_is_the_lowest_point_of_the_box(m: int, kind: str, upper: tuple[float, float]) -> None:
    draw = torch.Generator().manual_seed(0)
    for _ in range(25):
        q = quadratic(kind, m, draw)
        alpha = q.minimum(upper[:m])
        assert alpha.isfinite().all()
        assert ((alpha >= 0) & (alpha <= torch.tensor(upper[:m]))).all()
        assert float(q.value(alpha)) <= lowest(q, upper[:m]) + 1e-10


@pytest.mark.parametrize("kind", ["zero second direction", "zero"])
def test_a_direction_without_length_gets_nothing(kind: str) -> None:
    q = quadratic(kind, 2, torch.Generator().manual_seed(0))
    assert float(q.minimum((1.0, 1.0))[1]) == 0.0


@pytest.mark.parametrize("part", ["edges", "interior"])
def test_notices_a_lost_face(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutations: minima inside of the box, or on its edges, are not looked for."""
    monkeypatch.setattr(search, part, lambda *args: [])
    with pytest.raises(AssertionError):
        test_minimum_is_the_lowest_point_of_the_box(2, "definite", (1.0, 1.0))


def second_step(case: Case) -> tuple[Quadratic, Quadratic]:
    """The quadratic of the second step along (policy's, previous): the library's, and from dense Jacobians."""
    task = make(case.net)
    settings = {"lr": case.lr, "curvature": case.curvature, "terminal": case.terminal, "search": "model"}
    optimizer = OCNOpt(task.net, **settings)
    train(task, optimizer)
    u = [optimizer.state[p]["direction"].clone() for p in task.net.parameters()]
    unmoved, factor = deepcopy(task), optimizer.diagnostics()["calibration"]
    with watched() as seen:
        train(task, optimizer)

    loss, output = unmoved.evaluate()
    g = torch.cat(dense.gradients(loss, unmoved.layers))
    v = torch.autograd.grad(loss, output, retain_graph=True)[0].unsqueeze(0)
    turns, stages, quadratic = seen["turns"], seen["stages"], seen["quadratic"]
    columns = v if case.terminal == "true-vs-rest" else stages[-1].calls[0].Y
    W = torch.cat(dense.sensitivities(output, unmoved.layers, columns), -1).flatten(0, 1)
    C = factor * torch.block_diag(*terminal_core(case, task, output, columns))

    step_of = {id(p): d for turn in turns for p, d in zip(turn.params, turn.step, strict=True)}
    D = torch.stack([dense.flat([step_of[id(p)] for p in task.net.parameters()]), dense.flat(u)], 1)
    H = W.T @ C @ W + optimizer.diagnostics()["damping"] * torch.eye(len(g), dtype=g.dtype)
    return quadratic, Quadratic(D.T @ g, D.T @ H @ D)


def train(task: Task, optimizer: OCNOpt) -> None:
    optimizer.zero_grad()
    optimizer.backward(*task.evaluate())
    optimizer.step()


@contextmanager
def watched() -> Iterator[dict]:
    """What a step with search="model" is made of."""
    seen: dict = {}
    minimum, apply, run = Quadratic.minimum, Searched.apply, solving.backward_pass

    def noting(name: str, real: Callable, which: int) -> Callable:
        def call(*args):
            seen[name] = args[which]
            return real(*args)

        return call

    with (
        mock.patch.object(Quadratic, "minimum", noting("quadratic", minimum, 0)),
        mock.patch.object(Searched, "apply", noting("turns", apply, 1)),
        mock.patch.object(solving, "backward_pass", noting("problem", run, 0)),
    ):
        yield seen
        seen["stages"] = seen["problem"].stages


@pytest.mark.parametrize("terminal", ["true-vs-rest", "gauss-newton"])
@pytest.mark.parametrize("curvature", [SGD(), EKFAC()], ids=["identity", "ekfac"])
@pytest.mark.parametrize("net", EXACT)
def test_model_of_a_step_is_the_dense_one(net: str, curvature: Curvature, terminal: str) -> None:
    """b = Dᵀg and H = Dᵀ (Jᵀ Y C Yᵀ J + λ) D."""
    found, expected = second_step(Case(net=net, curvature=curvature, terminal=terminal))
    close(found.H, expected.H, "H")
    close(found.b, expected.b, "b")


LOST = {
    "the response of a policy that reacts": (policy, "react", lambda real: lambda *args: silenced(real(*args))),
    "the response of the previous step": (
        bellman,
        "Gain",
        lambda real: lambda *args: real(*args[:6], 0 * args[6], *args[7:]),
    ),
    "the core": (searching, "weighted_core", lambda real: lambda boundary: real(boundary) / 4),
}


def silenced(step: policy.Step) -> policy.Step:
    return replace(step, response=0 * step.response)


@pytest.mark.parametrize("what", LOST)
def test_notices_a_lost_term(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutations: see the table."""
    owner, name, new = LOST[what]
    real = getattr(owner, name)
    train_one = OCNOpt.step
    steps: list[int] = []

    def step(self: OCNOpt) -> None:
        steps.append(0)
        if len(steps) == 2:
            monkeypatch.setattr(owner, name, new(real))
        train_one(self)

    monkeypatch.setattr(OCNOpt, "step", step)
    with pytest.raises(AssertionError):
        test_model_of_a_step_is_the_dense_one("chain", SGD(), "true-vs-rest")
