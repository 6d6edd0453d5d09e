"""The fictitious adversary of ``ocnopt.game.disturbance`` against dense min-max, sample by sample."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import game as oracle
import pytest
import torch
from engine import Case, Record, close, run_library
from nets import make
from torch import Tensor

from ocnopt.core.bellman import Gain
from ocnopt.core.stage import Stage
from ocnopt.core.value import PerSample
from ocnopt.curvature import KFAC
from ocnopt.game import disturbance
from ocnopt.game.disturbance import Robust
from ocnopt.linalg.symmetric import Tally

CASES = {
    "chain": Case(net="chain"),
    "conv": Case(net="conv", curvature=KFAC(fisher="given")),
    "shared": Case(net="shared"),
    "columns": Case(net="chain", terminal="gauss-newton"),
    "part of the batch": Case(net="chain", samples=3),
}


def columns_of(stage: Stage, i: int) -> Tensor:
    """Y_i over all outputs of the stage, (n, r)."""
    return torch.cat([Y[:, i].flatten(1).T for _, Y, rows in stage.pairs if rows.stop - rows.start > i])


def check(case: Case, cost: float) -> Record:
    """(C, a) as every stage meets them, against the dense value of a disturbed state."""
    value, task = Robust(cost, limit=0.999), make(case.net, case.loss)
    met: list[tuple[Stage, Tensor, Tensor | None, Tensor | None, Tensor, Tensor]] = []

    def watched(self: Robust, stage: Stage, C: Tensor, a: Tensor | None, own: Tensor | None) -> tuple[Tensor, Tensor]:
        out = honest(self, stage, C, a, own)
        met.append((stage, C, a, own, *out))
        return out

    honest = Robust.meet
    with mock.patch.object(Robust, "meet", watched):
        record = run_library(replace(case, value=value), task)
    B = float(len(task.x))
    assert {stage.label for stage, *_ in met} == {stage.label for stage in record.problem.stages}
    for stage, C, a, own, C_new, a_new in met:
        for i in range(len(C)):
            Y = columns_of(stage, i)
            coordinates = torch.ones(C.shape[-1]).double() if own is None else own[i]
            c = coordinates if a is None else coordinates + a[i]
            V_x, V_xx = oracle.disturbed(Y @ c, Y @ C[i] @ Y.T, cost / B)
            close(Y @ (coordinates + a_new[i]), V_x, "V_x")
            close(Y @ C_new[i] @ Y.T, V_xx, "V_xx")
    return record


@pytest.mark.parametrize("case", CASES)
def test_equals_the_dense_worst_case(case: str) -> None:
    check(CASES[case], cost=40.0)


def test_nothing_is_left_of_it_at_a_high_cost() -> None:
    case = CASES["chain"]
    plain = run_library(case, make("chain"))
    far = check(case, cost=1e13)
    for ours, theirs in zip(far.steps, plain.steps, strict=True):
        for a, b in zip(ours.step, theirs.step, strict=True):
            close(a, b, "δθ", 1e-9)


def test_a_cheap_disturbance_is_held_and_counted() -> None:
    value = Robust(1e-6, limit=0.5, tally=Tally())
    record = run_library(Case(net="chain", value=value), make("chain"))
    assert value.tally["disturbances held"] > 0
    assert all(bool(torch.isfinite(gain.C).all()) and bool((gain.C >= 0).all()) for gain in record.gains)


def test_it_makes_the_policy_more_careful() -> None:
    """More curvature is met behind every stage, so each layer reacts more strongly to what the others do."""
    task = make("chain")
    plain, robust = (run_library(Case(net="chain", value=v), task).gains for v in (PerSample(), Robust(40.0)))

    def strengths(gains: list[Gain]) -> list[float]:
        return [float(gain.C.sum()) for gain in gains]

    assert all(a < b for a, b in zip(strengths(plain), strengths(robust), strict=True))


@pytest.mark.parametrize("cost", [0.0, -1.0, float("nan"), float("inf")])
def test_a_cost_must_be_positive(cost: float) -> None:
    with pytest.raises(ValueError, match="cost"):
        Robust(cost)


MUTATIONS = {
    "1/B of the cost left out": ("batch_of", lambda stage: 1.0),
    "one call of a shared layer left out": (
        "gram_of_columns",
        lambda stage: torch.einsum("rb...,sb...->brs", *[stage.pairs[0][1][:, :, :1].flatten(2)] * 2),
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_catches(mutation: str) -> None:
    name, new = MUTATIONS[mutation]
    with mock.patch.object(disturbance, name, new), pytest.raises(AssertionError, match="V_x"):
        check(CASES["shared"], cost=40.0)
