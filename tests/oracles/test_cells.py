"""Recurrent cells over three steps against their printed equations, dense factors and dense metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from engine import Case, close, run_library
from nets import CLASSES, LOSSES, Task
from test_kronecker import dense_of, state_of
from torch import Tensor, nn

from ocnopt.core.stage import Stage
from ocnopt.curvature import EKFAC, KFAC
from ocnopt.curvature.metrics import EigenMetric
from ocnopt.linalg.symmetric import Tally
from ocnopt.players.cells import GRUCellPlayer

Gates = Callable[[Tensor, Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]]
DAMPING = 0.03


def rnn(i: Tensor, h: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return ((i + h).tanh(),)


def gru(i: Tensor, h: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (i_r, i_z, i_n), (h_r, h_z, h_n) = i.chunk(3, -1), h.chunk(3, -1)
    z, n = (i_z + h_z).sigmoid(), (i_n + (i_r + h_r).sigmoid() * h_n).tanh()
    return ((1 - z) * n + z * state[0],)


def lstm(i: Tensor, h: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    into, forget, new, out = (i + h).chunk(4, -1)
    c = forget.sigmoid() * state[1] + into.sigmoid() * new.tanh()
    return out.sigmoid() * c.tanh(), c


CELLS: dict[str, tuple[type[nn.RNNCellBase], Gates, int, int]] = {
    "rnn": (nn.RNNCell, rnn, 5, 3),
    "gru": (nn.GRUCell, gru, 5, 3),
    "gru, narrow input": (nn.GRUCell, gru, 2, 3),
    "lstm": (nn.LSTMCell, lstm, 2, 3),
}


class Recurrent(nn.Module):
    """x (B, 3, n): the first call begins without a state, the last leaves the LSTM's c unused."""

    def __init__(self, kind: type[nn.RNNCellBase], inputs: int, units: int) -> None:
        super().__init__()
        self.cell, self.head = kind(inputs, units), nn.Linear(units, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        return self.head(state[0] if isinstance(state, tuple) else state)


@dataclass
class Scene:
    """The library's stage of a cell; Z (B, T, n) and U (r, B, T, kH) of every affine map, g_i and g_h."""

    stage: Stage
    cell: nn.Module
    Z: list[Tensor]
    U: list[Tensor]

    @property
    def groups(self) -> list[tuple[Tensor, Tensor]]:
        """Rows that meet in one matrix: one map's, or both maps' where they have the same cotangents."""
        if isinstance(self.cell, nn.GRUCell):
            return list(zip(self.Z, self.U, strict=True))
        close(self.U[0], self.U[1], "cotangents of g_i and g_h")
        return [(torch.cat(self.Z, -1), self.U[0])]

    @property
    def order(self) -> Tensor:
        """Where the entries of the groups' matrices, row by row, stand among the flattened parameters."""
        sizes = [p.numel() for p in self.cell.parameters()]
        W_i, W_h, b_i, b_h = (
            index.view(p.shape[0], -1)
            for index, p in zip(torch.arange(sum(sizes)).split(sizes), self.cell.parameters(), strict=True)
        )
        maps = [torch.cat([W_i, b_i], 1), torch.cat([W_h, b_h], 1)]
        joint = maps if isinstance(self.cell, nn.GRUCell) else [torch.cat(maps, 1)]
        return torch.cat([index.flatten() for index in joint])


def scene(name: str) -> Scene:
    kind, gates, inputs, units = CELLS[name]
    torch.manual_seed(0)
    net = Recurrent(kind, inputs, units).double()
    x, y = torch.randn(4, 3, inputs, dtype=torch.float64), torch.randint(CLASSES, (4,))
    task = Task(net, [net.cell, net.head], x, y, LOSSES["cross-entropy"])
    record = run_library(Case(terminal="gauss-newton"), task)
    stage = record.problem.stages[0]
    assert [call.count for call in stage.calls] == [2, 1]
    return Scene(stage, net.cell, *unrolled(net, gates, x, record.columns))


def unrolled(net: Recurrent, gates: Gates, x: Tensor, columns: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Z and U by the equations, differentiated with respect to g_i and g_h of every step."""
    cell, state = net.cell, (x.new_zeros(len(x), net.cell.hidden_size),) * 2
    one, Z, g = x.new_ones(len(x), 1), [], []
    for t in range(x.shape[1]):
        g.append((x[:, t] @ cell.weight_ih.T + cell.bias_ih, state[0] @ cell.weight_hh.T + cell.bias_hh))
        Z.append((torch.cat([x[:, t], one], 1), torch.cat([state[0], one], 1).detach()))
        state = gates(*g[-1], state)
    output = net.head(state[0])
    close(output.detach(), net(x).detach(), "output")
    flat = [part for pair in g for part in pair]
    U = [torch.autograd.grad(output, flat, column, retain_graph=True) for column in columns]
    by_map = [torch.stack([torch.stack(u[j::2], dim=1) for u in U]) for j in range(2)]
    return [torch.stack(z, dim=1) for z in zip(*Z, strict=True)], by_map


@pytest.mark.parametrize("name", CELLS)
def test_factors_are_the_dense_ones(name: str) -> None:
    found = scene(name)
    state = state_of(KFAC(), found.stage)
    for A, B, (Z, U) in zip(state["A"], state["B"], found.groups, strict=True):
        n, rows, cotangents = Z.shape[-1], Z.flatten(0, 1), U.flatten(0, 2)
        close(A[:n, :n], rows.T @ rows / len(rows), "A")
        close(B, cotangents.T @ cotangents, "B")
        assert not A[n:].any() and not A[:, n:].any()


@pytest.mark.parametrize("name", CELLS)
def test_pull_and_resp_are_products_with_the_rows(name: str) -> None:
    found = scene(name)
    W = [torch.einsum("rbto,bti->rboi", U, Z).flatten(2) for Z, U in found.groups]
    c = torch.randn(4, found.stage.rank, dtype=torch.float64)
    d = tuple(torch.randn_like(p) for p in found.cell.parameters())
    flat = torch.cat([x.flatten() for x in d])[found.order]
    pulled = torch.cat([x.flatten() for x in found.stage.pull(c)])[found.order]
    close(pulled, torch.einsum("rbp,br->p", torch.cat(W, -1), c), "pull")
    close(found.stage.resp(d), (torch.cat(W, -1) @ flat).T, "resp")


def kfac_block(Z: Tensor, U: Tensor, width: int) -> Tensor:
    """(B + √λ/π) ⊗ (A + π√λ); columns of zeros up to ``width`` count in the mean eigenvalue of A."""
    A = Z.flatten(0, 1).T @ Z.flatten(0, 1) / Z[..., 0].numel()
    B = U.flatten(0, 2).T @ U.flatten(0, 2)
    pi = (A.trace() / width / (B.trace() / len(B))).sqrt()
    damped_A = A + pi * DAMPING**0.5 * torch.eye(len(A), dtype=A.dtype)
    return torch.kron(B + DAMPING**0.5 / pi * torch.eye(len(B), dtype=A.dtype), damped_A)


def ekfac_block(Z: Tensor, U: Tensor, width: int) -> Tensor:
    """The diagonal of the Gauss-Newton block in the eigenbasis of the true A and B, damped."""
    rows, cotangents = Z.flatten(0, 1), U.flatten(0, 2)
    basis = torch.kron(torch.linalg.eigh(cotangents.T @ cotangents)[1], torch.linalg.eigh(rows.T @ rows)[1])
    W = torch.einsum("rbto,bti->rboi", U, Z).flatten(0, 1).flatten(1)
    return basis @ torch.diag((W @ basis).square().sum(0) + DAMPING) @ basis.T


TWINS = {"kfac": (KFAC(), kfac_block), "ekfac": (EKFAC(averaging=0.0), ekfac_block)}


@pytest.mark.parametrize("kind", TWINS)
@pytest.mark.parametrize("name", CELLS)
def test_metric_is_the_dense_block_diagonal_one(name: str, kind: str) -> None:
    curvature, twin = TWINS[kind]
    found = scene(name)
    state = state_of(curvature, found.stage, looks=2)
    curvature.renew(state, DAMPING, Tally())
    metric = curvature.metric(found.stage.player, state, DAMPING, 1.0)
    width = max(Z.shape[-1] for Z, _ in found.groups)
    M = torch.block_diag(*(twin(Z, U, width) for Z, U in found.groups))
    order = found.order
    inverse = dense_of(metric.solve, found.cell)[order][:, order]
    half = dense_of(metric.half, found.cell)
    close(M @ inverse, torch.eye(len(M), dtype=M.dtype), "M · M⁻¹")
    close((half.T @ half)[order][:, order], inverse, "half")


def reset_forgotten(real: Callable) -> Callable:
    """n = tanh(n_i + n_h), without r."""

    def φ(self: GRUCellPlayer, g: list[Tensor], state: list[Tensor]) -> tuple[Tensor, ...]:
        off = g[1].clone()
        off[..., 0, :] = 1e9
        return real(self, (g[0], off), state)

    return φ


def cut_in_the_basis(real: Callable) -> Callable:
    """Columns of the eigenbasis are cut off instead of those of the padding."""
    return lambda self, d: self.player.from_matrix(self.enter(d) * self.D.sqrt())


def padded_in_front(real: Callable) -> Callable:
    def stacked(self: GRUCellPlayer, groups: list[list[Tensor]], dim: int) -> Tensor:
        return real(self, groups, dim).flip(-1)

    return stacked


@pytest.mark.parametrize(
    ("where", "name", "mutation"),
    [
        (GRUCellPlayer, "φ", reset_forgotten),
        (EigenMetric, "half", cut_in_the_basis),
        (GRUCellPlayer, "_stacked", padded_in_front),
    ],
)
def test_notices_a_mutation(where: type, name: str, mutation: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(where, name, mutation(getattr(where, name)))
    with pytest.raises(AssertionError):
        test_metric_is_the_dense_block_diagonal_one("gru", "ekfac")
