"""Every quantity of an observed step against the dense recursion, dense metrics and plain differences of parameters."""

from __future__ import annotations

from typing import Any

import dense
import engine
import metrics
import pytest
import torch
from damped import Problem
from engine import Case, rows_of_blocks
from nets import Task, make
from torch import Tensor, nn
from torch.nn import functional as F

from ocnopt import OCNOpt
from ocnopt.core.acceptance import LevenbergMarquardt
from ocnopt.core.search import Model
from ocnopt.core.terminal import Fisher
from ocnopt.curvature import EKFAC, KFAC, SGD, Adam

CURVATURES = {"identity": SGD(), "adam": Adam(), "kfac": KFAC(fisher="given"), "ekfac": EKFAC(fisher="given")}


def case_of(net: str, curvature: str, **options: Any) -> Case:
    return Case(
        **{"net": net, "curvature": CURVATURES[curvature], "lr": 0.01 if curvature == "adam" else 0.4, **options}
    )


def observed(case: Case, task: Task) -> dict[str, dict[str, float]]:
    """Quantities by layer of the first step, which moves the network."""
    optimizer = engine.optimizer_of(case, task)
    optimizer.observe()
    optimizer.zero_grad()
    loss, output = task.evaluate()
    optimizer.backward(loss, output)
    optimizer.step()
    optimizer.remove_hooks()
    return by_layer(optimizer.diagnostics())


def by_layer(numbers: dict[str, float]) -> dict[str, dict[str, float]]:
    layers: dict[str, dict[str, float]] = {}
    for key, number in numbers.items():
        path, slash, name = key.rpartition("/")
        if slash:
            layers.setdefault(path, {})[name] = number
    return layers


def solved(case: Case) -> tuple[Task, dense.Passes, list[dense.Layer], Tensor]:
    """The task before its step, the dense passes and layers, and κC_T as the passes take it."""
    task = make(case.net, case.loss)
    found = None if engine.is_rank_one(case) else engine.run_library(case, task).columns
    loss, output = task.evaluate()
    (v,) = torch.autograd.grad(loss, output, retain_graph=True)
    columns = v.unsqueeze(0) if found is None else found
    layers = engine.dense_layers(case, task, loss, output, columns)
    C = case.feedback * engine.terminal_core(case, task, output, columns)
    return task, engine.run_oracle(case, task, columns), layers, C


def paths(task: Task) -> list[str]:
    names = {module: name for name, module in task.net.named_modules()}
    return [names[layer] for layer in task.layers]


@pytest.mark.parametrize("terminal", ["true-vs-rest", Fisher(2)], ids=["rank 1", "rank 2"])
@pytest.mark.parametrize("value", ["per-sample", "coupled"])
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("net", ["shared"])
def test_policies_are_those_of_the_dense_recursion(net: str, curvature: str, value: str, terminal: Any) -> None:
    case = case_of(net, curvature, value=value, terminal=terminal, saturation=0.2, feedback=0.7)
    task, passes, _, C = solved(case)
    behind = [*passes.C[1:], torch.block_diag(*C) if value == "coupled" else C]
    found = observed(case, task)
    assert any(numbers["feedback"] > 0 for numbers in found.values())
    for t, path in enumerate(paths(task)):
        k, added = float(passes.k[t].norm()), float((passes.step[t] - passes.k[t]).norm())
        assert found[path]["open loop"] == pytest.approx(k, rel=1e-9)
        assert found[path]["feedback"] == pytest.approx(added, rel=1e-8, abs=1e-9 * k)
        assert found[path]["feedback gain"] == pytest.approx(added / k, rel=1e-8, abs=1e-9)
        assert found[path]["shrink"] == pytest.approx(float(passes.C[t].norm() / behind[t].norm()), rel=1e-9)


def test_the_shrink_of_the_printed_recursion_is_that_behind_its_policy() -> None:
    """There the policy reacts with the core behind the stage."""
    case = case_of("chain", "identity", value="own-gains", lr=0.05)
    task, passes, _, _ = solved(case)
    found = observed(case, task)
    for t, path in enumerate(paths(task)[1:], start=1):
        expected = float(passes.C[t - 1].norm() / passes.C[t].norm())
        assert 0 < expected < 1 and found[path]["shrink"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("net", ["chain", "conv", "mixed"])
@pytest.mark.parametrize("curvature", CURVATURES)
def test_conditions_are_those_of_the_dense_metrics(net: str, curvature: str) -> None:
    """Exact where eigenvalues are at hand, and a lower bound where the name says so."""
    case = case_of(net, curvature)
    task, _, layers, _ = solved(case)
    found = observed(case, task)
    for path, layer in zip(paths(task), layers, strict=True):
        eigenvalues = torch.linalg.eigvalsh(layer.M)
        expected = float(eigenvalues[-1] / eigenvalues[0])
        if layer.own_block and curvature == "kfac":
            assert 1 < found[path]["condition at least"] <= expected * (1 + 1e-9)
            assert "condition" not in found[path]
        else:
            assert found[path]["condition"] == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("blocks", [0, 16])
@pytest.mark.parametrize("largest", [4096, 6, 3])
@pytest.mark.parametrize("curvature", [KFAC, EKFAC])
def test_conditions_of_factors(curvature: type[KFAC], largest: int, blocks: int) -> None:
    """Of A + π√λ and B + √λ/π, from their eigenvalues, their diagonals, or the Cholesky factor of an inverse."""
    kind = curvature(fisher="given", max_factor=largest, max_blocks=blocks)
    case = Case(net="chain", curvature=kind)
    task = make(case.net)
    loss, output = task.evaluate()
    (v,) = torch.autograd.grad(loss, output, retain_graph=True)
    sides = [metrics.factors(task.net, layer, task.x, v.unsqueeze(0), 4.0) for layer in task.layers]
    found = observed(case, task)
    for path, (A, B) in zip(paths(task), sides, strict=True):
        A, B = (metrics.cut(X, rows_of_blocks(kind, X.shape[-1]))[0] for X in (A, B))
        pi = (A.diagonal().mean() / B.diagonal().mean()).sqrt()
        for side, X, added in (("A", A, pi * 0.1), ("B", B, 0.1 / pi)):
            damped = X + added * torch.eye(len(X), dtype=X.dtype)
            values = torch.linalg.eigvalsh(damped)
            exact = float(values[-1] / values[0])
            if f"condition {side}" in found[path]:
                assert found[path][f"condition {side}"] == pytest.approx(exact, rel=1e-7)
            else:
                pivots = torch.linalg.cholesky(torch.linalg.inv(damped)).diagonal().square()
                expected = float(pivots.max() / pivots.min())
                assert found[path][f"condition {side} at least"] == pytest.approx(expected, rel=1e-7)
                assert expected <= exact * (1 + 1e-9)


@pytest.mark.parametrize("curvature", CURVATURES)
def test_updates_are_differences_of_parameters(curvature: str) -> None:
    """All of a layer's parameters together; momentum, rate and decay are in them."""
    case = case_of("chain", curvature, weight_decay=0.1)
    task = make(case.net)
    before = {
        path: dense.flat(dense.parameters(layer)).detach() for path, layer in zip(paths(task), task.layers, strict=True)
    }
    found = observed(case, task)
    for path, layer in zip(paths(task), task.layers, strict=True):
        moved = float((dense.flat(dense.parameters(layer)).detach() - before[path]).norm())
        assert found[path]["update"] == pytest.approx(moved, rel=1e-12) and moved > 0
        assert found[path]["update to weight"] == pytest.approx(moved / float(before[path].norm()), rel=1e-12)


def test_the_damping_is_what_is_in_the_metric() -> None:
    """An inverse keeps the λ it was made with; a basis takes the present one."""
    for curvature in ("kfac", "ekfac"):
        task = make("chain")
        optimizer = OCNOpt(task.net, curvature=CURVATURES[curvature], search=Model(measured=1.0))
        for _ in range(6):
            optimizer.zero_grad()
            task.evaluate()[0].backward()
            optimizer.observe()
            before = optimizer.diagnostics().get("damping", 1.0)
            optimizer.step()
        found = by_layer(optimizer.diagnostics())
        kept = optimizer.state[task.layers[0].weight].get("damping", before)
        assert found["0"]["damping"] == kept
        assert (kept == before) == (curvature == "ekfac")


def test_a_measured_step_tells_what_it_promised_and_brought() -> None:
    """The last try, whose figures are the recursion's although the steps come from one linear system."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    x = torch.rand(40, 2, dtype=torch.float64)
    task = Problem(net, x, x.sin().sum(1, keepdim=True))
    search = LevenbergMarquardt(start=1e-7)
    optimizer = OCNOpt(net, curvature="sgd", value="coupled", terminal="gauss-newton", search=search)

    def closure() -> Tensor:
        optimizer.zero_grad()
        output = net(x)
        loss = F.mse_loss(output, task.y)
        optimizer.backward(loss, output)
        return loss

    before = task.theta().clone()
    optimizer.observe()
    optimizer.step(closure)
    numbers, outcome = optimizer.diagnostics(), optimizer.last_step
    assert outcome is not None and numbers["accepted"] == 1.0
    expected = task.step(before, outcome.damping, outcome.length)
    assert numbers["actual"] == pytest.approx(-expected.actual, rel=1e-7)
    assert numbers["predicted"] == pytest.approx(-expected.predicted, rel=1e-7)
    assert numbers["ratio"] == pytest.approx(expected.actual / expected.predicted, rel=1e-6)
    assert numbers["tries refused"] == outcome.tries - 1 > 0
    for layer, d in zip("02", expected.step.split([24, 9]), strict=True):
        assert numbers[f"{layer}/update"] == pytest.approx(float(d.norm()), rel=1e-7)
    # The backward pass begins at the last layer, with its plain gradient and M = λI.
    g = task.gradient(before)
    assert numbers["2/open loop"] == pytest.approx(float(g[24:].norm()) / outcome.damping, rel=1e-8)
