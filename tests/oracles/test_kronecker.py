"""KFAC and EKFAC against the dense Gauss-Newton block of a layer, and their metrics against dense matrices."""

from __future__ import annotations

from dataclasses import replace

import dense
import metrics
import pytest
import torch
from engine import Case, close, metric, run_library
from nets import EXACT, make
from scenes import basis_of, dense_of, scene
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.core.stage import Stage
from ocnopt.curvature import EKFAC, KFAC, SGD, Adam, Curvature, ekfac, factors, kronecker
from ocnopt.linalg.blocks import gram
from ocnopt.linalg.symmetric import Tally

TINY = 1e-14


def state_of(curvature: Curvature, stage: Stage, looks: int = 1) -> dict:
    """State after one decomposition, and ``looks`` rounds of statistics on the same batch."""
    state: dict = {}
    for look in range(looks):
        curvature.observe(curvature.evidence(stage.player, stage.calls), state, Tally())
        if look == 0:
            curvature.renew(state, TINY, Tally())
    return state


def block_of(layer: nn.Module, A: Tensor, B: Tensor) -> Tensor:
    """A ⊗ B over the layer's flattened parameters."""
    return metrics.scattered(layer, [torch.kron(b, a) for a, b in zip(A, B, strict=True)])


def test_kfac_is_the_block_of_a_deep_linear_network() -> None:
    for stage, layer, block in scene("deep linear", "mse").matrices():
        state = state_of(KFAC(), stage)
        close(block_of(layer, state["A"], state["B"]), block, "A ⊗ B")


@pytest.mark.parametrize("name, wrong", [("factor_A", 0.5), ("factor_B", 0.25)])
def test_notices_a_wrong_average(name: str, wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutations: A is not a mean, B is not a sum."""
    real = getattr(kronecker, name)
    monkeypatch.setattr(kronecker, name, lambda *args: wrong * real(*args))
    with pytest.raises(AssertionError):
        test_kfac_is_the_block_of_a_deep_linear_network()


@pytest.mark.parametrize("net", EXACT)
def test_factors_are_the_dense_ones(net: str) -> None:
    """A and B of every layer by hooks, unfolded inputs and autograd."""
    found = scene(net)
    for stage, layer, _ in found.matrices():
        state = state_of(KFAC(), stage)
        A, B = metrics.factors(found.task.net, layer, found.task.x, found.columns, 1.0)
        close(state["A"], A, "A")
        close(state["B"], B, "B")


@pytest.mark.parametrize("fewer", [True, False])
@pytest.mark.parametrize("chunk", [1, 2**24])
@pytest.mark.parametrize("net", EXACT)
def test_ekfac_keeps_the_diagonal_in_its_basis(
    net: str, chunk: int, fewer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all samples at once, and of one after another; of rows that were turned, and of products that are."""
    monkeypatch.setattr(factors, "CHUNK", chunk)
    monkeypatch.setattr(factors, "rows_are_fewer", lambda *given: fewer)
    for stage, layer, block in scene(net).matrices():
        state = state_of(EKFAC(averaging=0.0), stage, looks=2)
        U = basis_of(layer, state)
        close(state["S"].flatten(), (U.T @ block @ U).diagonal(), "S")


def test_notices_squares_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: products are squared call by call, or position by position of a joint call, before they are added."""
    real = factors.squared_products
    assert ekfac.squared_products is real

    def by_position(parts, *U):
        every = [(part, p) for part in parts for p in range(part.Z.shape[2])]
        alone = [part._replace(Z=part.Z[:, :, p : p + 1], U=part.U[:, :, :, p : p + 1]) for part, p in every]
        return sum(real([one], *U) for one in alone)

    monkeypatch.setattr(ekfac, "squared_products", by_position)
    with pytest.raises(AssertionError):
        test_ekfac_keeps_the_diagonal_in_its_basis("shared", 2**24, False, monkeypatch)


@pytest.mark.parametrize("net", EXACT)
def test_ekfac_is_not_further_from_the_block_than_kfac(net: str) -> None:
    closer = 0
    for stage, layer, block in scene(net).matrices():
        state = state_of(EKFAC(averaging=0.0), stage, looks=2)
        U = basis_of(layer, state)
        far = (block_of(layer, state["A"], state["B"]) - block).norm()
        near = (U @ torch.diag(state["S"].flatten()) @ U.T - block).norm()
        assert near <= far * (1 + 1e-12)
        closer += int(near < 0.99 * far)
    assert closer > 0


KINDS: dict[str, Curvature] = {
    "identity": SGD(),
    "adam": Adam(),
    "kfac": KFAC(fisher="given"),
    "kfac, diagonal factors": KFAC(fisher="given", max_factor=6, max_blocks=0),
    "kfac, blocks": KFAC(fisher="given", max_factor=3),
    "ekfac": EKFAC(fisher="given"),
    "ekfac, diagonal factors": EKFAC(fisher="given", max_factor=6, max_blocks=0),
    "ekfac, blocks": EKFAC(fisher="given", max_factor=3),
    "ekfac, blocks and diagonals": EKFAC(fisher="given", max_factor=4, block_size=3, max_blocks=2),
    "ekfac, wide layers": EKFAC(fisher="given", whole=6),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", EXACT)
def test_solve_and_half_are_those_of_the_dense_metric(net: str, kind: str) -> None:
    case = Case(net=net, curvature=KINDS[kind], lr=0.3)
    task = make(net)
    loss, output = task.evaluate()
    v = torch.autograd.grad(loss, output, retain_graph=True)[0].unsqueeze(0)
    expected = [
        metric(case, task, m, g, v) for m, g in zip(task.layers, dense.gradients(loss, task.layers), strict=True)
    ]
    for stage, layer, M in zip(run_library(case, task).problem.stages, task.layers, expected, strict=True):
        inverse, half = dense_of(stage.metric.solve, layer), dense_of(stage.metric.half, layer)
        close(M @ inverse, torch.eye(len(M), dtype=M.dtype), "M · M⁻¹")
        close(half.T @ half, inverse, "half")


def test_turning_the_basis_keeps_the_trace() -> None:
    """S carried into another basis is the diagonal there of the metric it came from."""
    for stage, layer, _ in scene("chain").matrices():
        state = state_of(EKFAC(averaging=0.0), stage, looks=2)
        before = basis_of(layer, state)
        M = before @ torch.diag(state["S"].flatten()) @ before.T
        state["A"] = state["A"] + torch.diag_embed(torch.arange(state["A"].shape[-1], dtype=torch.float64))[None]
        EKFAC().renew(state, TINY, Tally())
        after = basis_of(layer, state)
        close(state["S"].flatten(), (after.T @ M @ after).diagonal(), "S")


@pytest.mark.parametrize("net", ["chain", "shared"])
def test_sampled_statistics_are_those_of_the_drawn_labels(net: str) -> None:
    """A plain backward with fisher="sampled": B holds Σ u uᵀ of the cotangents that the seed draws."""
    task = make(net)
    optimizer = OCNOpt(task.net, curvature=KFAC(), search="fixed", feedback=0.0, lr=1e-300)
    generator = optimizer.generator()
    task.evaluate()[0].backward()
    seen = next(sweep.seen for sweep in optimizer.capture.sweeps.values() if sweep.seen is not None)
    u = seen.sample(generator).unsqueeze(0)
    optimizer.step()
    for layer in task.layers:
        state = optimizer.state[layer.weight]
        A, B = metrics.factors(task.net, layer, task.x, u, 1.0)
        close(state["A"], A, "A")
        close(state["B"], B, "B")


def test_rows_of_part_of_the_batch_count_for_all_of_it() -> None:
    """B of the first two samples stands for four: twice their sum."""
    found = scene("chain")
    for stage, layer, _ in found.matrices():
        state = state_of(replace(KFAC(), rows=2), stage)
        few = found.columns.clone()
        few[:, 2:] = 0
        close(state["B"], 2 * metrics.factors(found.task.net, layer, found.task.x, few, 1.0)[1], "B")


@pytest.mark.parametrize("weight", [2.0, 0.0, -0.5])
@pytest.mark.parametrize("width", [5, 2, 1])
def test_a_gram_matrix_takes_its_weight_from_the_rows(weight: float, width: int) -> None:
    """Quadratures with negative weights have no root to multiply rows by."""
    X = torch.randn(2, 7, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    close(factors.scaled_gram(weight, X, width), weight * gram(X, width), "weighted")
