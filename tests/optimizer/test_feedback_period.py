"""feedback_every: in between, all layers take their open-loop steps, as long as the last search had them."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from optimizer_cases import batch, build, mlp, one_step, same, snapshot, train
from torch import Tensor, nn
from torch.nn import functional as F

from ocnopt import OCNOpt, planning, solving
from ocnopt.core import coasting
from ocnopt.core.bellman import backward_pass
from ocnopt.curvature import EKFAC
from ocnopt_lab.acceptance.run import distance

every_curvature = pytest.mark.parametrize("curvature", ["sgd", "rmsprop", "adam", "kfac", "ekfac"])


def passes(model: nn.Module, optimizer: OCNOpt, steps: range) -> list[int]:
    """The steps in which the Bellman pass ran."""
    ran = []
    for step in steps:
        with mock.patch.object(solving, "backward_pass", wraps=backward_pass) as watched:
            one_step(model, optimizer, *batch(step))
        ran += [optimizer.clock["step"]] * watched.call_count
    return ran


@every_curvature
def test_the_passes_run_at_the_period(curvature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "EAGER", 3)
    model = mlp()
    ran = passes(model, build(model, curvature, "model", feedback_every=4), range(24))
    statistics = {4, 5, 10, 20} if curvature in ("kfac", "ekfac") else set()
    assert ran == sorted({1, 2, 3, *range(4, 25, 4)} | statistics)


@every_curvature
@pytest.mark.parametrize("search", ["fixed", "model"])
def test_a_period_of_one_is_every_step(curvature: str, search: str) -> None:
    model = mlp()
    assert passes(model, build(model, curvature, search, feedback_every=1), range(25)) == [*range(1, 26)]


@every_curvature
def test_between_it_goes_on_with_the_last_search(curvature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """p ← (1 − lr α₁ shrinkage) p + lr (α₁ k + α₂ u), k the open loop's; the search goes on learning."""
    monkeypatch.setattr(planning, "EAGER", 6)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
    optimizer = build(model, curvature, "model", feedback_every=1000)
    train(model, optimizer, 6)
    monkeypatch.setattr(coasting, "STRETCH", 1.0)
    monkeypatch.setattr(coasting, "UPHILL", 1e9)
    optimizer.clock.update(length=0.6, momentum=0.3, usual=0.4, descent=1e9)
    before, clock = [p.detach().clone() for p in model.parameters()], dict(optimizer.clock)
    ball = [clock["momentum"] * optimizer.state[p]["direction"] for p in model.parameters()]
    one_step(model, optimizer, *batch(6))
    assert (optimizer.clock["length"], optimizer.clock["momentum"]) == (clock["length"], clock["momentum"])
    assert optimizer.clock["overshoot"] != clock["overshoot"]
    for p, old, u in zip(model.parameters(), before, ball, strict=True):
        fresh = optimizer.state[p]["direction"] - u
        assert float((fresh * p.grad).sum()) < 0, "k is a direction of descent"
        lr = optimizer.param_groups[0]["lr"]
        kept = 1 - lr * clock["length"] * clock["shrinkage"] * (curvature in ("kfac", "ekfac"))
        assert torch.allclose(p, kept * old + lr * (fresh + u), atol=1e-12)


def test_under_a_fixed_step_they_are_those_of_adamw(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "EAGER", 0)
    ours, theirs = mlp(), mlp()
    optimizer = OCNOpt(ours, lr=1e-2, curvature="adam", search="fixed", feedback_every=100)
    adamw = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.0)
    for step in range(10):
        one_step(ours, optimizer, *batch(step))
        one_step(theirs, adamw, *batch(step))
    assert distance(ours, theirs) < 1e-12


@every_curvature
def test_resumes_bit_for_bit(curvature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "EAGER", 2)
    model, resumed = mlp(), mlp()
    optimizer, other = (build(m, curvature, "model", feedback_every=3) for m in (model, resumed))
    train(model, optimizer, 7)
    resumed.load_state_dict(model.state_dict())
    other.load_state_dict(optimizer.state_dict())
    for step in range(7, 12):
        one_step(model, optimizer, *batch(step))
        one_step(resumed, other, *batch(step))
    assert same(snapshot(model, optimizer), snapshot(resumed, other))


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "2"])
def test_it_is_a_number_of_steps(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"feedback_every=.* must be a number of steps, at least 1"):
        OCNOpt(mlp(), feedback_every=wrong)  # type: ignore[arg-type]


def test_searches_that_measure_have_feedback_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "EAGER", 0)
    model = mlp()
    optimizer = OCNOpt(model, search="levenberg-marquardt", feedback_every=50)
    x, y = batch(0)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    assert optimizer.last_step is not None and optimizer.feedback_due(7)


# what "auto" stands for


@pytest.mark.parametrize(
    ("share", "busy", "period"),
    [
        (1.0, 20, 20),
        (0.5, 10, 10),
        (0.25, 10, 5),
        (0.125, 10, 2),
        (0.0625, 10, 1),
        (0.01, 10, 1),
        (0.3, 7, 7),
        (1.0, None, 16),
        (0.3, None, 5),
    ],
)
def test_one_in_sixteen_samples(share: float, busy: int | None, period: int) -> None:
    assert planning.sparing(share, busy) == period


@pytest.mark.parametrize(("size", "period"), [(16, 20), (64, 10), (128, 10), (256, 5), (512, 2), (1024, 1)])
def test_the_default_rests_the_more_the_smaller_the_batch(size: int, period: int) -> None:
    model = mlp()
    optimizer = OCNOpt(model)
    one_step(model, optimizer, *batch(0, size))
    assert optimizer.period() == period


@pytest.mark.parametrize(
    "options",
    [
        {"game": "feedback-nash"},
        {"value": "coupled"},
        {"value": "own-gains", "terminal": "gradient"},
    ],
)
def test_what_is_asked_for_in_every_step_never_rests(options: dict[str, str]) -> None:
    model = mlp()
    optimizer = OCNOpt(model, **options)
    one_step(model, optimizer, *batch(0))
    assert optimizer.period() == 1


def test_small_errors_are_searched_for_in_every_step() -> None:
    model = mlp()
    optimizer = OCNOpt(model)
    x, y = batch(0)
    optimizer.zero_grad()
    (model(x)[:, 0] - y).square().mean().backward()
    optimizer.step()
    assert optimizer.period() == 1


@pytest.mark.parametrize("rollout", ["linear", "nonlinear"])
def test_diagonals_rest_as_well(rollout: str) -> None:
    model = mlp()
    optimizer = OCNOpt(model, curvature="adam", search="fixed", rollout=rollout)
    one_step(model, optimizer, *batch(0, 32))
    assert optimizer.feedback_samples == 16 and optimizer.period() == 8


@pytest.mark.parametrize(
    ("size", "options", "steps"),
    [
        (32, {}, [1, 2, 3, 4, 5, 10, 20, 40]),
        (64, {}, [1, 2, 3, 4, 5, 10, 20, 30, 40]),
        (32, {"feedback_every": 1}, [1, 2, 3, 4, 5, 10, 20, 30, 40]),
        (32, {"curvature": EKFAC(statistics_every=15)}, [1, 2, 3, 4, 5, 15, 30]),
    ],
)
def test_statistics_are_rarer_in_small_batches(
    size: int, options: dict[str, object], steps: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first steps, and unless their period, or that of the feedback, is given."""
    monkeypatch.setattr(planning, "EAGER", 12)
    model = mlp()
    optimizer = OCNOpt(model, **options)  # type: ignore[arg-type]
    seen = []
    for step in range(1, 41):
        updates = optimizer.state[model[0].weight].get("updates", 0)
        one_step(model, optimizer, *batch(step, size))
        seen += [step] * (optimizer.state[model[0].weight]["updates"] - updates)
    assert seen == steps


# steps in between


def about_to_rest(monkeypatch: pytest.MonkeyPatch, **clock: float) -> tuple[nn.Module, OCNOpt]:
    """A model before a step in which the feedback rests, with gradients, and this state of the search."""
    monkeypatch.setattr(planning, "EAGER", 5)
    model = mlp()
    optimizer = build(model, "ekfac", "model", feedback_every=1000)
    train(model, optimizer, 5)
    optimizer.clock.update(clock)
    x, y = batch(5)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    return model, optimizer


def test_nothing_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    _, optimizer = about_to_rest(monkeypatch)
    assert optimizer.resting and not optimizer.capture.calls and not optimizer.capture.reached


def promised(monkeypatch: pytest.MonkeyPatch, descent: float) -> float:
    """α₁ gᵀM⁻¹g of a step after a search whose whole step had this descent."""
    model, optimizer = about_to_rest(monkeypatch, length=1.0, momentum=0.0, descent=descent)
    optimizer.step()
    return -sum(float((optimizer.state[p]["direction"] * p.grad).sum()) for p in model.parameters())


@pytest.mark.parametrize("part", [0.0, 0.25, 1.0])
def test_they_promise_no_more_than_the_search_did(monkeypatch: pytest.MonkeyPatch, part: float) -> None:
    whole = promised(monkeypatch, 1e9)
    assert whole > 0 and promised(monkeypatch, part * whole) == pytest.approx(part * whole, rel=1e-9)


@pytest.mark.parametrize(("sign", "usual", "kept"), [(1.0, 0.9, 0.0), (-1.0, 0.9, 0.5), (-1.0, 0.1, 0.1)])
def test_a_ball_that_rolls_uphill_takes_back_no_more_than_half(
    monkeypatch: pytest.MonkeyPatch, sign: float, usual: float, kept: float
) -> None:
    """Here of nothing; downhill it is that of the last search or the usual one, whichever is less."""
    model, optimizer = about_to_rest(monkeypatch, length=0.0, momentum=0.5, usual=usual, descent=1e9)
    for p in model.parameters():
        optimizer.state[p]["direction"].copy_(sign * p.grad)
    optimizer.step()
    for p in model.parameters():
        assert torch.allclose(optimizer.state[p]["direction"], kept * sign * p.grad)


def test_coefficients_by_hand() -> None:
    last = coasting.Coasting(length=0.2, momentum=0.6, descent=3.0, usual=0.4)
    assert last.coefficients(-3.0, -1.0, 1.0) == pytest.approx((0.2, 0.4))
    assert last.coefficients(-6.0, -1.0, 1.0) == pytest.approx((0.1, 0.2)), "twice as steep, half as far"
    assert last.coefficients(-1.0, -1.0, 1.0) == pytest.approx((0.3, 0.4)), "less steep, little further"
    assert last.coefficients(-1.0, -1.0, 0.25) == pytest.approx((0.25, 0.4)), "no further than allowed"
    assert last.coefficients(-3.0, 2.0, 1.0) == pytest.approx((0.2, 0.15)), "the ball takes back half of 0.6"
    for slopes in ((1.0, -1.0), (0.0, 0.0), (-float("inf"), 0.0), (float("nan"), 0.0), (-1.0, float("nan"))):
        assert last.coefficients(*slopes, 1.0) == (0.0, 0.0)
    assert last.after(0.1, 1.0, 5.0) == coasting.Coasting(0.1, 1.0, 5.0, pytest.approx(0.52))  # type: ignore[arg-type]
