"""Passes in the coordinates of the metric: intermediates against the dense recursions, runs against plain ones."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from engine import check
from nets import EXACT
from pytest import MonkeyPatch
from test_bellman import CURVATURES, TERMINALS, VARIANTS, case_of
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.core import turned
from ocnopt.core.stage import Stage
from ocnopt.core.turned import Turned
from ocnopt.curvature.metrics import EigenMetric
from ocnopt.players.linear import LinearPlayer

BASES = [name for name in CURVATURES if name.startswith("ekfac")]


@pytest.fixture
def stages(monkeypatch: MonkeyPatch) -> list[Turned]:
    """All that are turned from now on, which are all that can be."""
    made: list[Turned] = []
    real = turned.turn

    def noted(stage: Stage) -> Turned:
        made.append(real(stage))
        return made[-1]

    monkeypatch.setattr(turned, "turn", noted)
    monkeypatch.setattr(turned, "pays", lambda stage: True)
    return made


@pytest.mark.parametrize("terminal", TERMINALS)
@pytest.mark.parametrize("curvature", BASES)
@pytest.mark.parametrize("net", EXACT)
def test_equals_the_dense_recursion(net: str, curvature: str, terminal: str, stages: list[Turned]) -> None:
    check(case_of(net, curvature, "per-sample", terminal))
    assert stages or "diagonal" in curvature or "wide" in curvature


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("terminal", ["true-vs-rest", "gauss-newton"])
@pytest.mark.parametrize("net", ["conv", "shared"])
def test_variants(net: str, terminal: str, variant: str, stages: list[Turned]) -> None:
    options = VARIANTS[variant]
    if options.get("loss") and terminal == "true-vs-rest":
        terminal = "gradient"
    check(replace(case_of(net, "ekfac", "per-sample", terminal), **options))
    assert stages


@pytest.mark.parametrize("options", [{"samples": 3}, {"sweeps": 2}])
@pytest.mark.parametrize("net", ["chain", "shared", "mixed"])
def test_parts_of_the_batch(net: str, options: dict[str, int], stages: list[Turned]) -> None:
    check(replace(case_of(net, "ekfac", "per-sample", "true-vs-rest"), **options))
    assert stages


@pytest.mark.parametrize("value", ["coupled", "own-gains"])
def test_values_that_ask_for_gram_matrices_stay_plain(value: str, stages: list[Turned]) -> None:
    check(case_of("chain", "ekfac", value, "true-vs-rest"))
    assert not stages


def unturned(real: Any) -> Any:
    """Rows as they come."""
    return lambda self, player, Z, U: (Z, U, self.D)


def of_one_sample(real: Any) -> Any:
    def outer(U: Tensor, Z: Tensor) -> Tensor:
        return real(U[:1], Z[:, :1])

    return outer


MUTATIONS = {
    "rows are not turned": (EigenMetric, "rotate_rows", unturned),
    "the pull of one sample": (turned, "outer", of_one_sample),
    "the response without its columns": (turned, "along", lambda real: lambda x, Z, U: real(x, Z, U.abs())),
    "the step stays turned": (Turned, "back", lambda real: lambda self, d: self.metric.player.from_matrix(d[0])),
    "the step before is forgotten": (Turned, "carried", lambda real: property(lambda self: None)),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_notices_a_mutation(what: str, stages: list[Turned], monkeypatch: MonkeyPatch) -> None:
    owner, name, mutated = MUTATIONS[what]
    case = replace(case_of("shared", "ekfac", "per-sample", "gauss-newton"), **VARIANTS["a previous step and a pace"])
    check(case)
    monkeypatch.setattr(owner, name, mutated(getattr(owner, name)))
    with pytest.raises(AssertionError):
        check(case)


def wide_run(monkeypatch: MonkeyPatch, worth: float) -> tuple[list[Tensor], dict[str, float], int]:
    """Weights and what was observed after 12 steps with 4 samples of each batch, and how many stages were turned."""
    made: list[Turned] = []
    real = turned.turn
    monkeypatch.setattr(turned, "WORTH", worth)
    monkeypatch.setattr(turned, "turn", lambda stage: made.append(real(stage)) or made[-1])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 3)).double()
    optimizer = OCNOpt(model, feedback_samples=4, seed=0)
    x, y = torch.randn(40, 24, dtype=torch.float64), torch.randint(3, (40,))
    for step in range(12):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if step == 11:
            optimizer.observe()
        optimizer.step()
    told = {name: value for name, value in optimizer.diagnostics().items() if isinstance(value, float)}
    return [p.detach() for p in model.parameters()], told, len(made)


def test_a_run_is_the_plain_one(monkeypatch: MonkeyPatch) -> None:
    """Few samples and wide layers, where it pays by itself; also what is observed."""
    weights, told, many = wide_run(monkeypatch, turned.WORTH)
    plain, expected, none = wide_run(monkeypatch, 0.0)
    assert many >= 24 and none == 0
    for p, q in zip(weights, plain, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-11)
    seen = [name for name in expected if "time" not in name and "second" not in name]
    assert any("feedback gain" in name for name in seen)
    for name in seen:
        assert told[name] == pytest.approx(expected[name], rel=1e-6, abs=1e-12), name


@pytest.mark.parametrize("rows, worth", [(8, True), (64, False)])
def test_it_pays_where_rows_are_few(rows: int, worth: bool) -> None:
    """Of a layer 32 x 32 a solve takes 4·32³ multiplications, rows turned 2·32² each."""
    metric = EigenMetric(LinearPlayer(nn.Linear(32, 32, bias=False), ("weight",)), *torch.zeros(3, 1, 32, 32), 0.1, 1.0)
    solve, turning = metric.costs(rows)
    assert (solve, turning) == (4 * 32**3, rows * 2 * 32**2)
    assert (turning <= turned.WORTH * solve) == worth
