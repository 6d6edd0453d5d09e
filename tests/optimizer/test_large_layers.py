"""Factors in blocks in whole runs: saved and loaded, resumed with other blocks, read from older states."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from live_memory import Live
from optimizer_cases import mlp, same, snapshot, train
from torch import nn

from ocnopt import OCNOpt
from ocnopt.curvature import EKFAC, KFAC
from ocnopt.curvature.factors import CHUNK, Evidence, squared_products
from ocnopt.versions import STAMP

CUTS = {
    "kfac": KFAC(max_factor=3, statistics_every=2, decompose_every=3),
    "ekfac": EKFAC(max_factor=3, statistics_every=2, decompose_every=3),
    "ekfac, diagonals": EKFAC(max_factor=4, max_blocks=1, statistics_every=2, decompose_every=3),
}


@pytest.mark.parametrize("search", ["fixed", "model"])
@pytest.mark.parametrize("name", CUTS)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, search: str) -> None:
    model = mlp(torch.float32)
    optimizer = OCNOpt(model, curvature=CUTS[name], search=search)
    train(model, optimizer, 12)
    other = mlp(torch.float32, seed=1)
    resumed = OCNOpt(other, curvature=CUTS[name], search=search)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for net, opt in ((model, optimizer), (other, resumed)):
        train(net, opt, range(12, 32))
    assert same(snapshot(model, optimizer), snapshot(other, resumed))


@pytest.mark.parametrize("kind", [KFAC, EKFAC])
@pytest.mark.parametrize("before, after", [(4096, 3), (3, 4096), (3, 2)])
def test_a_run_goes_on_in_other_blocks(kind: type[KFAC], before: int, after: int) -> None:
    """Failing, loading under another cap ends in an error of shapes, or the factors begin anew."""
    model = mlp(torch.float32)
    optimizer = OCNOpt(model, curvature=kind(max_factor=before, statistics_every=10))
    train(model, optimizer, 12)
    old = copy.deepcopy(optimizer.state[model[0].weight]["A"])
    wider = OCNOpt(model, curvature=kind(max_factor=after, statistics_every=10))
    wider.load_state_dict(optimizer.state_dict())
    train(model, wider, range(12, 13))  # no statistics are due
    state = wider.state[model[0].weight]
    assert state["A"].shape == (1, 5, {4096: 5, 3: 3, 2: 2}[after])
    assert torch.equal(state["A"][:, :2, :2], old[:, :2, :2]) and wider.coverage()[0].metric in ("eigen", "kronecker")
    losses = train(model, wider, range(13, 33))
    assert all(map(math.isfinite, losses)) and wider.diagnostics().get("decomposition failed", 0) == 0
    assert state["updates"] > 7 and state["A"].shape[2] == min(after, 5)


def test_a_state_of_version_1_keeps_what_its_diagonals_knew() -> None:
    model = mlp(torch.float32)
    optimizer = OCNOpt(model, curvature=EKFAC(max_factor=3, max_blocks=0))
    train(model, optimizer, 12)
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["clock"][STAMP]["version"] = 1
    newer = OCNOpt(model, curvature=EKFAC(max_factor=3))
    newer.load_state_dict(state)
    train(model, newer, range(12, 13))
    A = newer.state[model[0].weight]["A"]
    assert torch.equal(A[0, 0, :1], optimizer.state[model[0].weight]["A"][0, :1]) and not A[0, 0, 1:].any()


@pytest.mark.parametrize("before, after", [(10, 2), (2, 10)])
def test_decompositions_of_the_other_kind_are_made_anew(before: int, after: int) -> None:
    """An input side of a loaded state that had an eigenbasis and shall have inverses, or the other way round."""
    model = mlp(torch.float32)
    optimizer = OCNOpt(model, curvature=EKFAC(whole=before))
    train(model, optimizer, 12)
    newer = OCNOpt(model, curvature=EKFAC(whole=after))
    newer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, newer, range(12, 26))
    assert ("S" in newer.state[model[0].weight]) == (after == 10)
    assert ("inverse_A" in newer.state[model[0].weight]) == (after == 2)


def test_a_wide_layer_takes_memory_by_its_blocks() -> None:
    """8,192 inputs and a bias, whose whole factor would take 268 MB."""
    torch.manual_seed(0)
    model = nn.Linear(8192, 3)
    optimizer = OCNOpt(model, curvature=EKFAC(rows=64, block_size=16, max_blocks=600, whole=8193))
    x, y = torch.randn(32, 8192), torch.randint(3, (32,))
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    state = optimizer.state[model.weight]
    assert state["A"].shape == state["U_A"].shape == (1, 8193, 16) and losses[-1] < 0.5 * losses[0]
    assert EKFAC().width(8193) == 911 and EKFAC().width(50257) == 1


def test_second_moments_hold_the_products_of_a_few_samples() -> None:
    """16 samples of 4 positions at 3,000 x 1,000 weights: 192 MB of products if they were all there at once."""
    Z, U = torch.randn(1, 16, 4, 1000), torch.randn(1, 1, 16, 4, 3000)
    with Live() as memory:
        squared_products([Evidence(Z, U, 1.0, 0)], None, None)
    assert memory.most < 2.5 * 4 * CHUNK and memory.largest <= 4 * CHUNK
