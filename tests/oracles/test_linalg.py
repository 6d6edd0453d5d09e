"""Factorisations that do not fail, and cores that cannot turn negative."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from engine import close
from torch import Tensor, nn

from ocnopt.linalg import symmetric
from ocnopt.linalg.cores import factorised, shrink, shrink_first_order
from ocnopt.linalg.kronecker import from_basis, product, to_basis
from ocnopt.linalg.symmetric import DecompositionError, Tally, cholesky, eigh


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def definite(*shape: int, seed: int = 0) -> Tensor:
    root = random(*shape, shape[-1], seed=seed)
    return root @ root.mT + 0.1 * torch.eye(shape[-1], dtype=torch.float64)


def test_cholesky_of_a_definite_matrix_counts_nothing() -> None:
    A, tally = definite(3, 5), Tally()
    L = cholesky(A, tally)
    close(L @ L.mT, A, "L Lᵀ")
    assert tally == Counter()


def test_cholesky_of_a_matrix_off_the_cone_adds_counted_jitter() -> None:
    A, tally = definite(5), Tally()
    values, U = torch.linalg.eigh(A)
    values[0] = -1e-8 * values.mean()
    A = (U * values) @ U.T
    L = cholesky(A, tally)
    close(L @ L.T, A, "L Lᵀ", tolerance=1e-5)
    assert tally == {"cholesky with jitter": 1}


def test_cholesky_in_single_is_repeated_in_double() -> None:
    """1e-9 is lost beside 1 in single precision, not in double."""
    A = torch.tensor([[1.0, 1.0], [1.0, 1.0]]) + torch.tensor([[1e-7, 0.0], [0.0, 0.0]])
    tally = Tally()
    L = cholesky(A, tally)
    assert L.dtype == torch.float32
    assert L.isfinite().all()
    assert sum(tally.values()) <= 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("factorise", [cholesky, eigh])
def test_not_finite_is_refused(factorise, bad: float) -> None:
    A = definite(4)
    A[0, 0] = bad
    with pytest.raises(DecompositionError, match="not finite"):
        factorise(A, Tally())


def test_cholesky_gives_up_in_words() -> None:
    with pytest.raises(DecompositionError, match="not positive definite"):
        cholesky(torch.diag(torch.tensor([1.0, -1.0])), Tally())


def test_eigh_diagonalises_and_clips() -> None:
    A, tally = random(2, 5, 5), Tally()
    A = (A + A.mT) / 2
    values, U = eigh(A, tally)
    close((U.mT @ A @ U).diagonal(dim1=1, dim2=2).clamp(min=0), values, "eigenvalues")
    close(U.mT @ U, torch.eye(5, dtype=torch.float64).expand(2, 5, 5), "UᵀU")
    assert bool((values >= 0).all()) and bool((values == 0).any()) and tally == Counter()


@pytest.mark.parametrize("failures, counted", [(1, "eigh in double"), (2, "eigh with jitter")])
def test_eigh_climbs_down_the_ladder(failures: int, counted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tally = refusing(failures, monkeypatch)
    A = definite(4)
    values, U = eigh(A, tally)
    close((U * values) @ U.T, A, "U s Uᵀ", tolerance=1e-5)
    assert tally == {counted: 1}


def test_eigh_gives_up_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = refusing(3, monkeypatch)
    with pytest.raises(DecompositionError, match="did not converge"):
        eigh(definite(4), tally)


def refusing(failures: int, monkeypatch: pytest.MonkeyPatch) -> Tally:
    """torch's eigh fails that many times."""
    real, left = torch.linalg.eigh, [failures]

    def eigh(A: Tensor) -> tuple[Tensor, Tensor]:
        left[0] -= 1
        if left[0] >= 0:
            raise torch.linalg.LinAlgError("does not converge")
        return real(A)

    monkeypatch.setattr(symmetric.torch.linalg, "eigh", eigh)
    return Tally()


@pytest.mark.parametrize("r", [1, 2, 5])
def test_shrink_is_the_inverse_of_a_sum(r: int) -> None:
    C, G = definite(7, r, seed=1), definite(7, r, seed=2)
    close(shrink(C, G), torch.linalg.inv(torch.linalg.inv(C) + G), "(C⁻¹ + G)⁻¹")


def test_shrink_of_a_singular_core() -> None:
    """The limit of (C⁻¹ + G)⁻¹ where C has a null space: C½ (I + C½ G C½)⁻¹ C½."""
    half, G = torch.diag(torch.tensor([1.5, 0.7, 0.0], dtype=torch.float64)), definite(3)
    expected = half @ torch.linalg.inv(torch.eye(3, dtype=torch.float64) + half @ G @ half) @ half
    close(shrink(half @ half, G), expected, "(C⁻¹ + G)⁻¹")


def test_only_the_first_order_shrink_turns_negative() -> None:
    """DESIGN, fact 2: 200 random networks of 12 layers, identity metric, C = 1, Y = v."""
    negative = 0
    for seed in range(200):
        exact = printed = torch.ones(1, dtype=torch.float64)
        held, crossed = 0, False
        for G in reversed(sensitivities(seed)):
            exact = shrink(exact.view(1, 1, 1), G.view(1, 1, 1)).flatten()
            _, count = shrink_first_order(printed.view(1, 1, 1), G.view(1, 1, 1))
            held += count
            printed = printed - printed * G * printed
            crossed = crossed or bool(printed < 0)
            printed = printed.clamp(min=0)
            assert 0 <= float(exact) <= 1
        assert (held > 0) == crossed
        negative += crossed
    assert negative == 200


def sensitivities(seed: int) -> list[Tensor]:
    """G = ‖f_θᵀ v‖² of every layer of a tanh network of width 10, for one sample of a summed squared error."""
    torch.manual_seed(seed)
    net = nn.Sequential(*[part for _ in range(12) for part in (nn.Linear(10, 10), nn.Tanh())]).double()
    x, y = torch.randn(2, 10, dtype=torch.float64)
    loss = (net(x) - 3 * y).square().sum()
    layers = [part for part in net if isinstance(part, nn.Linear)]
    grads = [torch.autograd.grad(loss, list(layer.parameters()), retain_graph=True) for layer in layers]
    return [sum(g.square().sum() for g in pair).reshape(1) for pair in grads]


def test_kronecker_products_are_those_of_the_dense_matrix() -> None:
    X, A, B = random(2, 3, 4), definite(2, 4, seed=1), definite(2, 3, seed=2)
    for g in range(2):
        close(product(X, A, B)[g].flatten(), torch.kron(B[g], A[g]) @ X[g].flatten(), "(A ⊗ B) x")
    diagonal = product(X, A.diagonal(dim1=1, dim2=2), B.diagonal(dim1=1, dim2=2))
    close(
        diagonal,
        product(X, torch.diag_embed(A.diagonal(dim1=1, dim2=2)), torch.diag_embed(B.diagonal(dim1=1, dim2=2))),
        "diagonals",
    )
    U_A, U_B = torch.linalg.eigh(A)[1], torch.linalg.eigh(B)[1]
    close(to_basis(X, U_A, U_B)[0].flatten(), torch.kron(U_B[0], U_A[0]).T @ X[0].flatten(), "rotated")
    close(from_basis(to_basis(X, U_A, U_B), U_A, U_B), X, "there and back")


@pytest.mark.parametrize("failing", ["memory", "indefinite"])
def test_a_coupled_system_falls_back_to_elimination(failing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(A: Tensor) -> tuple[Tensor, Tensor]:
        if failing == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return torch.full_like(A, torch.nan), torch.ones((), dtype=torch.int32)

    J, tally = random(4, 6), Tally()
    C, b = random(4, seed=1).abs() + 0.1, J[:, :1]
    expected = torch.linalg.solve(torch.eye(4, dtype=torch.float64) + C[:, None] * (J @ J.T), b)
    found = factorised(C[:, None, None], J @ J.T, tally).solve(b)
    monkeypatch.setattr(torch.linalg, "cholesky_ex", broken)
    assert not tally
    close(found, expected, "by Cholesky")
    close(factorised(C[:, None, None], J @ J.T, tally).solve(b), expected, "by elimination")
    named = {"memory": "decomposition out of memory", "indefinite": "coupled system not definite"}
    assert dict(tally) == {named[failing]: 1}
