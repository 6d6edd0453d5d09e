"""Every curvature of the table keeps the same promises; a new one is one line of ``ocnopt.curvature.TABLE``.

What its numbers should be is tested against dense matrices in tests/oracles.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ocnopt import OCNOpt
from ocnopt.curvature import EKFAC, KFAC, TABLE, Curvature
from ocnopt.gathering import Turn
from ocnopt.solving import Solver

LR = 0.1
KINDS: dict[str, str | Curvature] = {
    **{name: name for name in TABLE},
    "kfac, blocks": KFAC(max_factor=4, block_size=3),
    "ekfac, blocks": EKFAC(max_factor=4, block_size=3),
    "ekfac, blocks and diagonals": EKFAC(max_factor=4, max_blocks=2),
}
"""The names of the table, and large sides cut: here those of 5, 6 and 16 rows."""
Snapshot = list[Tensor]


def network() -> nn.Module:
    """Layers with and without a matrix, grouped channels, several positions, and a bias missing."""
    torch.manual_seed(0)
    conv, norm = nn.Conv1d(2, 4, 3, groups=2), nn.GroupNorm(2, 4)
    return nn.Sequential(
        conv, norm, nn.Tanh(), nn.Flatten(), nn.Linear(16, 5, bias=False), nn.Tanh(), nn.Linear(5, 3)
    ).double()


def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(6, 2, 6, generator=draw, dtype=torch.float64), torch.randint(3, (6,), generator=draw)


def make(name: str, **options: Any) -> tuple[nn.Module, OCNOpt]:
    net = network()
    settings = {"lr": LR, "search": "fixed", "feedback": 0.0, "momentum": 0.0, "betas": (0.0, 0.999)} | options
    return net, OCNOpt(net, curvature=KINDS[name], **settings)


def gradients(net: nn.Module, optimizer: OCNOpt, x: Tensor | None = None) -> None:
    own_x, y = batch()
    optimizer.zero_grad()
    F.cross_entropy(net(own_x if x is None else x), y).backward()


def stepped(optimizer: OCNOpt) -> list[Turn]:
    """The turns of one step, each with the metric it was moved by."""
    seen: list[Turn] = []
    real = Solver.measure

    def measure(self: Solver, turns: Sequence[Turn], *args: Any) -> None:
        real(self, turns, *args)
        seen.extend(turns)

    with mock.patch.object(Solver, "measure", measure), mock.patch.object(Solver, "plays", True):
        optimizer.step()  # metrics are made where somebody plays
    return seen


def values(tensors: Sequence[Tensor]) -> Snapshot:
    return [x.detach().clone() for x in tensors]


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.reshape(-1) for x in tensors])


def inverse_of(turn: Turn, apply: str = "solve") -> Tensor:
    """A column of M⁻¹, or of its root, for every entry of the turn's parameters."""
    sizes = [p.numel() for p in turn.params]
    columns = []
    for unit in torch.eye(sum(sizes), dtype=torch.float64):
        parts = tuple(x.view_as(p) for x, p in zip(unit.split(sizes), turn.params, strict=True))
        columns.append(flat(getattr(turn.metric, apply)(parts)))
    return torch.stack(columns, 1)


def several_steps(name: str, steps: int = 4, **options: Any) -> tuple[nn.Module, OCNOpt, list[Turn]]:
    """Statistics and decompositions have been renewed a few times."""
    net, optimizer = make(name, **options)
    for _ in range(steps):
        gradients(net, optimizer)
        turns = stepped(optimizer)
    return net, optimizer, turns


@pytest.mark.parametrize("name", KINDS)
def test_metric_is_symmetric_positive_definite(name: str) -> None:
    for turn in several_steps(name)[2]:
        inverse = inverse_of(turn)
        torch.testing.assert_close(inverse, inverse.T, rtol=1e-10, atol=1e-12 * float(inverse.abs().max()))
        assert torch.linalg.eigvalsh(inverse).min() > 0


@pytest.mark.parametrize("name", KINDS)
def test_solve_and_half_belong_to_one_matrix(name: str) -> None:
    draw = torch.Generator().manual_seed(2)
    for turn in several_steps(name)[2]:
        inverse, half = inverse_of(turn), inverse_of(turn, "half")
        torch.testing.assert_close(half.T @ half, inverse, rtol=1e-9, atol=1e-11 * float(inverse.abs().max()))
        d = tuple(torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in turn.params)
        solved = flat(turn.metric.solve(d))
        torch.testing.assert_close(torch.linalg.solve(inverse, solved), flat(d), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(solved, inverse @ flat(d), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", KINDS)
def test_without_feedback_or_momentum_the_step_is_the_preconditioned_gradient(name: str) -> None:
    """δθ = −M⁻¹ g, where M = (curvature)/lr."""
    net, optimizer, _ = several_steps(name)
    gradients(net, optimizer)
    before = [values([p]) for p in net.parameters()]
    turns = stepped(optimizer)
    moved = {id(p): p.detach() - old[0] for p, old in zip(net.parameters(), before, strict=True)}
    for turn in turns:
        expected = -inverse_of(turn) @ flat([p.grad for p in turn.params])
        torch.testing.assert_close(flat([moved[id(p)] for p in turn.params]), expected, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("name", KINDS)
def test_the_metric_scales_with_the_inverse_rate(name: str) -> None:
    slow, fast = several_steps(name, 1)[2], several_steps(name, 1, lr=3 * LR)[2]
    for one, other in zip(slow, fast, strict=True):
        torch.testing.assert_close(3 * inverse_of(one), inverse_of(other), rtol=1e-10, atol=0)


def leaves(value: Any) -> list[Any]:
    return [x for entry in value.values() for x in leaves(entry)] if isinstance(value, dict) else [value]


@pytest.mark.parametrize("search", ["fixed", "model"])
@pytest.mark.parametrize("name", KINDS)
def test_state_is_tensors_and_numbers(name: str, search: str) -> None:
    _, optimizer, _ = several_steps(name, momentum=0.9, search=search, feedback=1.0)
    for state in optimizer.state.values():
        assert all(isinstance(x, Tensor | int | float) for x in leaves(state))
        assert all(isinstance(key, str) for key in state)
        assert not any(x.requires_grad for x in leaves(state) if isinstance(x, Tensor))


def poisoned() -> Tensor:
    x, _ = batch()
    x[0, 0, 0] = float("nan")
    return x


@pytest.mark.filterwarnings("ignore:OCNOpt skipped a step")
@pytest.mark.parametrize("search", ["fixed", "model"])
@pytest.mark.parametrize("name", KINDS)
def test_a_gradient_that_is_not_finite_changes_nothing(name: str, search: str) -> None:
    net, optimizer, _ = several_steps(name, search=search, feedback=1.0)
    before = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    gradients(net, optimizer, poisoned())
    optimizer.step()
    after = (net.state_dict(), optimizer.state_dict())
    for found, kept in zip(tree_leaves(after), tree_leaves(before), strict=True):
        assert torch.equal(found, kept) if isinstance(found, torch.Tensor) else found == kept
    assert optimizer.diagnostics()["steps skipped"] == 1


@pytest.mark.parametrize("search", ["fixed", "model"])
@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("name", KINDS)
def test_evidence_that_is_not_finite_enters_no_average(name: str, steps: int, search: str) -> None:
    """The trajectory is poisoned, while somebody has made the gradients finite."""
    net, optimizer, _ = (
        several_steps(name, steps, search=search, feedback=1.0)
        if steps
        else (*make(name, search=search, feedback=1.0), [])
    )
    gradients(net, optimizer, poisoned())
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert all(torch.as_tensor(x).isfinite().all() for x in leaves(dict(optimizer.state)))
    assert all(p.isfinite().all() for p in net.parameters())
    gradients(net, optimizer)
    optimizer.step()
    assert all(p.isfinite().all() for p in net.parameters())
