"""A bias in front of a batch norm has a gradient of rounding alone; a diagonal metric must not steer it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ocnopt import OCNOpt
from ocnopt.core.value import PerSample
from ocnopt.curvature.metrics import DiagonalMetric, seen_by

diagonals = pytest.mark.parametrize("curvature", ["rmsprop", "adam"])
values = pytest.mark.parametrize("value", ["per-sample", "coupled", "robust"])


def trained(curvature: str, value: str, steps: int = 60, **options: float | str) -> tuple[OCNOpt, nn.Module]:
    """After some steps on two nested classes, the first two layers in front of a batch norm."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = OCNOpt(model, curvature=curvature, value=value, **options)
    for step in range(steps):
        x = torch.randn(8, 5, generator=torch.Generator().manual_seed(step))
        y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return optimizer, model


@diagonals
@values
def test_layers_before_a_batch_norm_go_on(curvature: str, value: str) -> None:
    optimizer, _ = trained(curvature, value)
    assert optimizer.clock["length"] > 0.1


def test_notices_a_steered_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PerSample, "faint", 0.0)
    optimizer, _ = trained("adam", "per-sample", feedback_every=1)
    assert optimizer.clock["length"] < 1e-4


@diagonals
def test_its_own_step_stays_that_of_the_base_optimizer(curvature: str) -> None:
    """Continuous in κ: an unseen bias moves as without feedback."""
    _, off = trained(curvature, "per-sample", 5, feedback=0.0, search="fixed")
    _, least = trained(curvature, "per-sample", 5, feedback=1e-9, search="fixed")
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(off.parameters(), least.parameters(), strict=True))


def test_vectors_are_held_against_the_matrix_of_their_layer() -> None:
    weight, bias = torch.full((2, 3), 0.5), torch.tensor([0.4e-3, 0.6e-3])
    seen = seen_by([weight, bias], 1e-3)
    assert seen is not None and seen[0] is None and seen[1] is not None
    assert seen[1].tolist() == [0.0, 1.0]
    assert seen_by([bias], 1.0) is None and seen_by([weight], 1.0) is None and seen_by([1.0, 1.0], 1.0) is None
    metric = DiagonalMetric([weight, bias], [1.0, 1.0], seen)
    one = (torch.ones(2, 3), torch.ones(2))
    assert metric.half(one)[1].tolist() == [0.0, pytest.approx(0.6e-3**-0.5)]
    assert torch.equal(metric.solve(one)[1], 1 / bias)
