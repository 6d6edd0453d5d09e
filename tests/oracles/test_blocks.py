"""Factors in blocks against dense matrices with zeros outside of them: products, decompositions, metrics."""

from __future__ import annotations

from collections.abc import Iterator

import metrics
import pytest
import torch
from engine import close, rows_of_blocks
from nets import EXACT
from scenes import Scene, basis_of, dense_of, scene
from torch import Tensor, nn

from ocnopt.core.stage import Stage
from ocnopt.curvature import EKFAC, KFAC, Kronecker
from ocnopt.curvature.decompositions import cubes, damped_inverse, dampings, eigenbasis, mean_eigenvalue, turn
from ocnopt.linalg import blocks
from ocnopt.linalg.symmetric import Tally

SIZES = [(6, 6), (6, 3), (6, 2), (7, 3), (7, 4), (5, 4), (1, 1)]
"""Side of a factor, and rows of its blocks."""

each_size = pytest.mark.parametrize("n, rows", SIZES)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spread(F: Tensor) -> Tensor:
    """The dense matrix (g, n, n) that a factor stands for, entry by entry."""
    if F.dim() == 2:
        return F.diag_embed()
    g, n, b = F.shape
    full = F.new_zeros(g, n, n)
    for i in range(n):
        start = i // b * b
        stop = min(start + b, n)
        full[:, i, start:stop] = F[:, i, : stop - start]
        assert not F[:, i, stop - start :].any()
    return full


def factor(n: int, rows: int, groups: int = 2) -> tuple[Tensor, Tensor]:
    """A positive definite factor, and the dense matrix that it is cut from."""
    X = random(groups, 3 * n, n)
    return blocks.gram(X, rows), X.mT @ X


@each_size
def test_gram_is_the_dense_one_cut(n: int, rows: int) -> None:
    F, dense = factor(n, rows)
    assert F.shape == blocks.shape_of(2, n, rows) == (2, n, rows)
    close(spread(F), metrics.cut(dense, rows), "Xᵀ X")
    close(blocks.diagonal(F), dense.diagonal(dim1=1, dim2=2), "its diagonal")
    close(
        spread(blocks.gram(random(2, 9, n), 1)), metrics.cut(random(2, 9, n).mT @ random(2, 9, n), 1), "diagonal alone"
    )


@each_size
def test_products_are_those_of_the_dense_matrix(n: int, rows: int) -> None:
    F, _ = factor(n, rows)
    F = F.cumsum(1)  # no longer symmetric
    F = blocks.packed([P.tril() + 2 * P.triu() for P in blocks.pieces(F)])
    M, X = spread(F), random(3, 2, 4, n, seed=1)
    close(blocks.right(X, F), X @ M, "X F")
    close(blocks.right_transposed(X, F), X @ M.mT, "X Fᵀ")
    close(blocks.left(F, X.mT), M @ X.mT, "F X")
    close(blocks.left_transposed(F, X.mT), M.mT @ X.mT, "Fᵀ X")


@each_size
def test_decompositions_are_those_of_the_dense_matrix(n: int, rows: int) -> None:
    F, dense = factor(n, rows)
    M, tally = metrics.cut(dense, rows), Tally()
    damping = torch.tensor([0.5, 2.0], dtype=torch.float64)[:, None, None]
    close(spread(damped_inverse(F, damping, tally)), torch.linalg.inv(M + damping * torch.eye(n)), "inverse")
    s, U = eigenbasis(F, tally)
    basis = spread(U)
    close(basis @ s.diag_embed() @ basis.mT, M, "U s Uᵀ")
    close(basis.mT @ basis, torch.eye(n, dtype=M.dtype).expand(2, n, n), "Uᵀ U")
    close(mean_eigenvalue(F)[:, 0, 0], torch.linalg.eigvalsh(M).mean(-1), "mean eigenvalue")
    other = eigenbasis(F + blocks.gram(random(2, n, n, seed=3), rows), tally)[1]
    found = turn(other, U)
    assert found is not None
    close(spread(found), spread(other).mT @ basis, "turn")
    assert not tally
    sizes = [min(rows, n - start) for start in range(0, n, rows)]
    operations = 2 * sum(b**3 for b in sizes)
    assert cubes(F) == operations if n % rows == 0 else operations < cubes(F) <= 2 * n * rows**2


@pytest.mark.parametrize("new", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("old", [1, 2, 3, 4, 7])
def test_another_cut_keeps_what_lies_in_both(old: int, new: int) -> None:
    F = blocks.gram(random(2, 9, 7), old)
    found = blocks.recut(F, new)
    assert found.shape == blocks.shape_of(2, 7, new) and blocks.width_of(found) == new
    close(spread(found), metrics.cut(spread(F), new), "recut")


def test_equal_blocks_are_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four blocks and a smaller one take two calls of the solver, and four equal ones take one."""
    calls: list[tuple[int, ...]] = []
    real = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda A: calls.append(tuple(A.shape)) or real(A))
    for n in (12, 14):
        eigenbasis(blocks.gram(random(2, 30, n), 3), Tally())
    assert calls == [(2, 4, 3, 3), (2, 4, 3, 3), (2, 1, 2, 2)]


CUT = {"ragged": {"max_factor": 3}, "diagonals, too": {"max_factor": 4, "block_size": 3, "max_blocks": 2}}
each_cut = pytest.mark.parametrize("cut", CUT)
each_net = pytest.mark.parametrize("net", EXACT)


def looked(curvature: Kronecker, found: Scene, looks: int) -> Iterator[tuple[Stage, nn.Module, Tensor, dict]]:
    """Every matrix layer of a scene with its state after so many looks, decomposed after each but the last."""
    for stage, layer, block in found.matrices():
        state: dict = {}
        for look in range(looks):
            curvature.observe(curvature.evidence(stage.player, stage.calls), state, Tally())
            if look < max(1, looks - 1):
                curvature.renew(state, 0.1, Tally())
        yield stage, layer, block, state


@each_cut
@each_net
def test_factors_are_the_dense_ones_cut(net: str, cut: str) -> None:
    curvature, found = KFAC(fisher="given", **CUT[cut]), scene(net)
    for _, layer, _, state in looked(curvature, found, 1):
        dense = metrics.factors(found.task.net, layer, found.task.x, found.columns, 1.0)
        sides = [metrics.cut(X, rows_of_blocks(curvature, X.shape[-1])) for X in dense]
        for side, X in zip("AB", sides, strict=True):
            close(spread(state[side]), X, side)
        for side, X, d in zip("AB", sides, dampings(*sides, 0.1), strict=True):
            close(
                spread(state[f"inverse_{side}"]), torch.linalg.inv(X + d * torch.eye(X.shape[-1])), f"inverse of {side}"
            )


@each_cut
@each_net
def test_ekfac_keeps_the_diagonal_in_the_basis_of_the_blocks(net: str, cut: str) -> None:
    """S = diag(Uᵀ G U) with G the layer's dense Gauss-Newton block, and M = U (S + λ) Uᵀ."""
    curvature = EKFAC(fisher="given", averaging=0.0, **CUT[cut])
    for stage, layer, block, state in looked(curvature, scene(net), 2):
        if "S" not in state:  # an input side of which only the diagonal is kept has no basis
            assert state["A"].dim() == 2
            continue
        U = basis_of(
            layer, {"U_A": spread(state["U_A"]), "U_B": spread(state.get("U_B", torch.ones_like(state["s_B"])))}
        )
        close(state["S"].flatten(), (U.T @ block @ U).diagonal(), "S")
        metric = curvature.metric(stage.player, state, 0.1, 1.0)
        M = U @ torch.diag(state["S"].flatten() + 0.1) @ U.T
        close(M @ dense_of(metric.solve, layer), torch.eye(len(M), dtype=M.dtype), "M · M⁻¹")


@each_net
def test_turning_the_blocks_keeps_the_metric_s_diagonal(net: str) -> None:
    curvature = EKFAC(fisher="given", averaging=0.0, max_factor=3)
    for _, layer, _, state in looked(curvature, scene(net), 2):
        before = basis_of(layer, {"U_A": spread(state["U_A"]), "U_B": spread(state["U_B"])})
        M = before @ torch.diag(state["S"].flatten()) @ before.T
        state["A"] = state["A"] + blocks.gram(
            random(len(state["A"]), 9, state["A"].shape[1], seed=5), state["A"].shape[-1]
        )
        curvature.renew(state, 0.1, Tally())
        after = basis_of(layer, {"U_A": spread(state["U_A"]), "U_B": spread(state["U_B"])})
        close(state["S"].flatten(), (after.T @ M @ after).diagonal(), "S")


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_state_is_laid_out_in_blocks(kind: type[KFAC]) -> None:
    curvature = kind(fisher="given", max_factor=3)
    for stage, _, _, state in looked(curvature, scene("mixed"), 1):
        blank: dict = {}
        curvature.lay_out(stage.player, blank)
        assert {name: torch.as_tensor(x).shape for name, x in blank.items()} == {
            name: torch.as_tensor(x).shape for name, x in state.items()
        }


@pytest.mark.parametrize("saved, wanted", [(4096, 3), (3, 4096), (3, 2), (1, 3)])
@pytest.mark.parametrize("kind", [KFAC, EKFAC])
def test_factors_that_were_kept_in_other_blocks_go_on(kind: type[KFAC], saved: int, wanted: int) -> None:
    before, after = kind(fisher="given", max_factor=saved), kind(fisher="given", max_factor=wanted)
    for stage, _, _, state in looked(before, scene("chain"), 2):
        old = {side: spread(state[side]) for side in "AB"}
        after.fit(stage.player, state)
        for side, X in old.items():
            close(spread(state[side]), metrics.cut(X, rows_of_blocks(after, X.shape[-1])), side)
        assert state["updates"] == 2 and after.stale(state, 0.1) and not after.ready(state)
        after.renew(state, 0.1, Tally())
        assert after.ready(state)
