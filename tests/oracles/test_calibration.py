"""The curvature measured along a step against the dense one: J δθ by forward mode, and the draws at the output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp

from ocnopt import OCNOpt, searching
from ocnopt.core.losses import SoftmaxCrossEntropy
from ocnopt.core.search import LIMITS, Calibration, Model
from ocnopt.core.stage import Stage

B, K = 6, 4


class Recurrent(nn.Module):
    """A layer called three times, whose calls are merged."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 5), nn.Linear(5, K)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.inner(x).tanh()
        return self.outer(x)


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "dense": nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, K)).double(),
        "recurrent": Recurrent().double(),
        "conv": nn.Sequential(
            nn.Unflatten(1, (1, 5)), nn.Conv1d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(9, K)
        ).double(),
    }


class Seen:
    """What a step has drawn and what it has found."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.draws: list[Tensor] = []
        self.found: list[tuple[float, float] | None] = []
        self.steps: list[dict[str, Tensor]] = []
        sample, curvatures = SoftmaxCrossEntropy.sample, searching.curvatures

        def recorded(seen: SoftmaxCrossEntropy, generator: torch.Generator) -> Tensor:
            self.draws.append(sample(seen, generator))
            return self.draws[-1]

        def measured(played: Any, R: Tensor) -> tuple[float, float] | None:
            self.found.append(curvatures(played, R))
            names = [f"{s.label}.{n}" for s in played.stages for n in s.player.names]
            self.steps.append(dict(zip(names, (d for step in played.steps for d in step.step), strict=True)))
            return self.found[-1]

        monkeypatch.setattr(SoftmaxCrossEntropy, "sample", recorded)
        monkeypatch.setattr(searching, "curvatures", measured)


def one_step(
    monkeypatch: pytest.MonkeyPatch, name: str, samples: int | None, terminal: str = "auto"
) -> tuple[float, float]:
    """(Σ (uᵀδh)², Σ C (vᵀδh)²) as found in the first step; dense twins are compared on the way."""
    model, seen = networks()[name], Seen(monkeypatch)
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(B, 5, generator=draw, dtype=torch.float64)
    y = torch.randint(K, (B,), generator=draw)
    optimizer = OCNOpt(model, terminal=terminal, feedback_samples=samples)
    θ = {n: p.detach().clone() for n, p in model.named_parameters()}
    F.cross_entropy(model(x), y).backward()
    optimizer.step()
    (found,), (d,), (u,) = seen.found, seen.steps, seen.draws
    assert found is not None
    h, δh = jvp(lambda p: functional_call(model, p, (x,)), (θ,), (d,))
    p = h.softmax(1)
    v = (p - F.one_hot(y, K)) / B
    m = samples or B
    core = SoftmaxCrossEntropy(p, F.one_hot(y, K).double(), torch.full((B, 1), 1 / B, dtype=torch.float64)).core(0.6)
    drawn, modelled = (u * δh).sum(1).square(), core * (v * δh).sum(1).square()
    wanted = [float(B / m * part[:m].sum()) for part in (drawn, modelled)]
    assert found == pytest.approx(wanted, rel=1e-9)
    return found


@pytest.mark.parametrize("samples", [None, 4])
@pytest.mark.parametrize("name", ["dense", "recurrent", "conv"])
def test_curvatures_are_those_of_the_dense_step(
    monkeypatch: pytest.MonkeyPatch, name: str, samples: int | None
) -> None:
    one_step(monkeypatch, name, samples)


def test_notices_draws_that_are_read_as_cotangents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the response along v stands for the one along a draw."""
    monkeypatch.setattr(Stage, "drawn", lambda self, d: self.resp(d)[:, 0])
    with pytest.raises(AssertionError):
        one_step(monkeypatch, "dense", None)


def test_the_mean_over_draws_is_the_curvature() -> None:
    """E[(uᵀδ)²] = δᵀHδ: what makes the factor right in the mean."""
    draw = torch.Generator().manual_seed(0)
    p = torch.randn(1, K, generator=draw, dtype=torch.float64).softmax(1)
    seen = SoftmaxCrossEntropy(p, F.one_hot(torch.tensor([1]), K).double(), torch.ones(1, 1, dtype=torch.float64))
    δ = torch.randn(K, generator=draw, dtype=torch.float64)
    H = torch.diag(p[0]) - p.T @ p
    mean = sum(float(seen.sample(draw)[0].double() @ δ) ** 2 for _ in range(4000)) / 4000
    assert mean == pytest.approx(float(δ @ H @ δ), rel=0.05)


def test_the_factor_is_a_ratio_of_running_sums() -> None:
    scale = Calibration()
    assert scale.factor == 1.0
    scale.observe(3.0, 1.0, 0.8)
    assert scale.factor == pytest.approx(3.0)
    scale.observe(1.0, 1.0, 0.8)
    assert scale.factor == pytest.approx((0.8 * 0.6 + 0.2) / (0.8 * 0.2 + 0.2))
    before = scale.factor
    scale.observe(float("nan"), 1.0, 0.8)
    scale.observe(1.0, float("inf"), 0.8)
    assert scale.factor == before
    assert (Calibration(1e9, 1.0).factor, Calibration(0.0, 1.0).factor) == LIMITS[::-1]


def train(calibration: float, steps: int = 12) -> dict[str, float]:
    """Diagnostics after some steps on one batch."""
    model = networks()["dense"]
    draw = torch.Generator().manual_seed(3)
    x, y = torch.randn(B, 5, generator=draw, dtype=torch.float64), torch.randint(K, (B,), generator=draw)
    optimizer = OCNOpt(model, search=Model(calibration=calibration))
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return optimizer.diagnostics()


def test_calibration_enters_the_core() -> None:
    off, on = train(1.0), train(0.8)
    assert off["calibration"] == 1.0 and off["drawn"] == 0.0
    assert on["calibration"] == pytest.approx(on["drawn"] / on["modelled"]) and on["calibration"] != 1.0
    assert on["predicted"] != off["predicted"]


def test_a_first_measurement_ends_the_careful_start() -> None:
    """Not a later one: by then λ has reasons of its own."""
    model = networks()["dense"]
    optimizer = OCNOpt(model, search=Model(noise=0.01, decay=1.0, overshoot=1e9))
    x, y = torch.randn(B, 5, dtype=torch.float64), torch.arange(B) % K
    seen = []
    for step in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        seen.append(optimizer.diagnostics()["damping"])
        if step == 1:
            optimizer.clock["damping"] = 0.7
    assert seen == [0.5, 0.5, 0.7]


def test_without_calibration_nothing_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """λ keeps its careful start: it had been cut in every step that gathers statistics."""
    seen = Seen(monkeypatch)
    assert train(1.0)["damping"] == pytest.approx(max(0.85**12, 2 / B))
    assert train(1.0, steps=2)["damping"] > Model().measured and not seen.found


def test_a_calibration_that_makes_no_sense() -> None:
    with pytest.raises(ValueError, match=r"Model\(calibration=1.5\) must lie in \[0, 1\]"):
        Model(calibration=1.5)
