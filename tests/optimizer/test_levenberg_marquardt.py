"""Searches that measure their steps: what they reach, what they put back, what they refuse, and what they say."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from mutations import Mutation, nothing_kept, require_noticed
from optimizer_cases import CURVATURES, NETWORKS, batch, mlp, same, snapshot, weights
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.nn import functional as F

from ocnopt import OCNOpt, evaluating, trials
from ocnopt.core.acceptance import Backtracking, LevenbergMarquardt, Outcome
from ocnopt.core.rollout import Nonlinear

SEARCHES = ("levenberg-marquardt", "backtracking")
both = pytest.mark.parametrize("search", SEARCHES)
Data = tuple[Tensor, Tensor]


def net(*between: nn.Module, outputs: int = 1, seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Linear(2, 8), nn.Tanh(), *between, nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, outputs)]
    return nn.Sequential(*layers).to(dtype)


def data(size: int = 40, outputs: int = 1, dtype: torch.dtype = torch.float64) -> Data:
    """Points of smooth functions."""
    x = torch.rand(size, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(5)) * 2 - 1
    return x.to(dtype), torch.sin(torch.stack([(j + 1) * x[:, 0] + x[:, 1] for j in range(outputs)], 1)).to(dtype)


def coupled(model: nn.Module, search: Any = "levenberg-marquardt", **options: Any) -> OCNOpt:
    settings = {"curvature": "sgd", "value": "coupled", "terminal": "gauss-newton"}
    return OCNOpt(model, search=search, **{**settings, **options})


def closure_of(model: nn.Module, optimizer: OCNOpt, x: Tensor, y: Tensor, loss: Any = F.mse_loss) -> Callable:
    def closure() -> Tensor:
        optimizer.zero_grad()
        output = model(x)
        value = loss(output, y)
        optimizer.backward(value, output)
        return value

    return closure


def outcome(optimizer: OCNOpt) -> Outcome:
    assert optimizer.last_step is not None
    return optimizer.last_step


def run(model: nn.Module, optimizer: OCNOpt, steps: int, xy: Data | None = None) -> list[Outcome]:
    closure = closure_of(model, optimizer, *(data() if xy is None else xy))
    outcomes = []
    for _ in range(steps):
        optimizer.step(closure)
        outcomes.append(outcome(optimizer))
    return outcomes


def hostile(model: nn.Module, optimizer: OCNOpt, worse: float) -> Callable[[], Tensor]:
    """A closure whose loss is ``worse`` wherever the parameters are not those of now."""
    home = weights(model)
    closure = closure_of(model, optimizer, *data())

    def judged() -> Tensor:
        loss = closure()
        return loss if same(weights(model), home) else loss.detach() + worse

    return judged


# what it reaches


@pytest.mark.parametrize(
    "search, steps, tries",
    [("levenberg-marquardt", 30, 40), (LevenbergMarquardt(acceleration=0.0), 60, 70)],
    ids=["accelerated", "straight"],
)
@pytest.mark.parametrize("seed", [2, 5, 8])
def test_a_smooth_regression_is_fitted_without_a_learning_rate(seed: int, search: Any, steps: int, tries: int) -> None:
    """Nothing tuned, 21 to 25 steps for seeds 0 to 11 (42 to 102 of straight ones), hardly a trial in vain."""
    model = net(seed=seed)
    outcomes = run(model, coupled(model, search), steps)
    assert outcomes[-1].loss < 1e-8
    assert all(o.accepted for o in outcomes)
    assert sum(o.tries for o in outcomes) <= tries


def test_single_precision_ends_at_its_precision_and_says_so() -> None:
    model = net(dtype=torch.float32)
    outcomes = run(model, coupled(model), 80, data(dtype=torch.float32))
    assert min(o.loss for o in outcomes) < 1e-5
    assert all(o.accepted or o.reason for o in outcomes)


@both
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("value", ["per-sample", "coupled"])
def test_every_curvature_goes_down(search: str, curvature: str, value: str) -> None:
    """A plain loss.backward(), the terminal factor that it allows, and whatever metric."""
    model = mlp()
    optimizer = OCNOpt(model, curvature=curvature, value=value, search=search)
    x, y = batch(0, size=12)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(12)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]


@both
@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_of_a_real_network_moves(network: str, search: str) -> None:
    make, inputs, loss_of = NETWORKS[network]
    model, x = make(), inputs()
    optimizer = OCNOpt(model, curvature="sgd", value="coupled", search=search)
    before = weights(model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, x)
        loss.backward()
        return loss

    first = optimizer.step(closure).item()
    for _ in range(3):
        optimizer.step(closure)
    assert outcome(optimizer).loss < first
    moved = [not torch.equal(p, q) for p, q in zip(before, weights(model), strict=True)]
    assert sum(not x for x in moved) <= (1 if network == "transformer" else 0)  # a key's bias has no gradient


def test_the_learning_rate_is_a_multiplier_of_one() -> None:
    """Of straight steps; what bends them is of second order and counts lr²."""
    whole, half, straight = net(), net(), LevenbergMarquardt(acceleration=0.0)
    start = weights(whole)
    run(whole, coupled(whole, straight), 1)
    run(half, coupled(half, straight, lr=0.5), 1)
    assert coupled(net()).param_groups[0]["lr"] == 1.0
    for p, q, r in zip(start, weights(whole), weights(half), strict=True):
        torch.testing.assert_close(r - p, (q - p) / 2)


@pytest.mark.parametrize("options", [{"rollout": "nonlinear"}, {"game": "feedback-nash"}, {"feedback": 0.0}], ids=str)
@both
def test_the_other_axes_are_free(search: str, options: dict[str, Any]) -> None:
    model = net()
    optimizer = OCNOpt(model, curvature="sgd", terminal="gauss-newton", search=search, **options)
    outcomes = run(model, optimizer, 8)
    assert outcomes[-1].loss < 0.5 * (outcomes[0].loss + outcomes[0].actual)
    if "rollout" in options:
        assert isinstance(optimizer.rollout, Nonlinear)
        assert not any(name.startswith("nonlinear") for name in optimizer.diagnostics())


def test_a_plain_backward_of_a_squared_error_knows_no_curvature() -> None:
    """terminal="auto" takes the gradient factor then: slow, but it goes down, and coverage() says which it is."""
    model, (x, y) = net(), data()
    optimizer = OCNOpt(model, curvature="sgd", value="coupled", search="levenberg-marquardt")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(10)]
    assert losses == sorted(losses, reverse=True)
    assert optimizer.coverage()[0].terminal == "gradient, beta=0.01"


def test_gauss_newton_asks_for_its_backward() -> None:
    model, (x, y) = net(), data()
    optimizer = coupled(model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(model(x), y)
        loss.backward()
        return loss

    before = weights(model)
    with pytest.raises(ValueError, match=r"call optimizer\.backward"):
        optimizer.step(closure)
    assert same(weights(model), before)


# what it puts back


@both
@pytest.mark.parametrize("worse", [1e3, math.inf, math.nan])
def test_a_refused_step_leaves_everything_bit_for_bit(search: str, worse: float) -> None:
    """Parameters, buffers, gradients and random numbers are those of the one evaluation at the old parameters."""
    model, other = (net(nn.BatchNorm1d(8), nn.Dropout(0.2)) for _ in range(2))
    optimizer = coupled(model, search)
    torch.manual_seed(1)
    optimizer.step(hostile(model, optimizer, worse))
    after, refused = torch.rand(3), outcome(optimizer)
    torch.manual_seed(1)
    F.mse_loss(other(data()[0]), data()[1]).backward()
    assert not refused.accepted and refused.tries > 1 and refused.reason.startswith("no decrease")
    assert same(model.state_dict(), other.state_dict())
    assert same([p.grad for p in model.parameters()], [p.grad for p in other.parameters()])
    assert torch.equal(after, torch.rand(3))
    assert ("not finite" in refused.reason) == (not math.isfinite(worse))


@both
def test_an_accepted_step_is_one_evaluation_for_buffers_and_random_numbers(search: str) -> None:
    model, other = (net(nn.BatchNorm1d(8), nn.Dropout(0.2)) for _ in range(2))
    torch.manual_seed(1)
    assert run(model, coupled(model, search), 1)[0].accepted
    after = torch.rand(3)
    torch.manual_seed(1)
    other(data()[0])
    assert same(dict(model.named_buffers()), dict(other.named_buffers()))
    assert torch.equal(after, torch.rand(3))


@both
def test_gradients_stay_those_of_the_step(search: str) -> None:
    model, other = net(), net()
    for to_none in (True, False):
        optimizer = coupled(model, search)
        zero = optimizer.zero_grad
        optimizer.zero_grad = lambda zero=zero, to_none=to_none: zero(set_to_none=to_none)  # type: ignore[method-assign]
        other.load_state_dict(model.state_dict())
        other.zero_grad()
        F.mse_loss(other(data()[0]), data()[1]).backward()
        assert run(model, optimizer, 1)[0].accepted
        assert same([p.grad for p in model.parameters()], [p.grad for p in other.parameters()])


def test_dropout_is_the_same_at_all_points_of_a_step_and_new_in_the_next() -> None:
    model, (x, y) = net(nn.Dropout(0.3)), data()
    masks = []
    model[2].register_forward_hook(lambda module, args, output: masks.append(output.detach() == 0))
    optimizer = coupled(model)
    closure = closure_of(model, optimizer, x, y)
    for _ in range(3):
        masks.append(torch.tensor(0))
        optimizer.step(closure)
    starts = [j for j, mask in enumerate(masks) if mask.dim() == 0]
    steps = [masks[a + 1 : b] for a, b in zip(starts, [*starts[1:], len(masks)], strict=True)]
    assert all(len(step) >= 2 and all(torch.equal(step[0], mask) for mask in step) for step in steps)
    assert not torch.equal(steps[0][0], steps[1][0])


def test_a_closure_that_fails_in_a_trial_leaves_the_parameters() -> None:
    model = net(nn.BatchNorm1d(8))
    optimizer = coupled(model)
    closure, home = closure_of(model, optimizer, *data()), weights(model)

    def failing() -> Tensor:
        if not same(weights(model), home):
            raise KeyboardInterrupt
        return closure()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(failing)
    assert same(weights(model), home)
    assert outcome(optimizer).reason == "an error has ended the step"
    assert not optimizer.capture.calls
    assert run(model, optimizer, 1)[0].accepted


LEFT: dict[str, Mutation] = {
    "parameters": (
        *(trials, "tensors_kept_unless", nothing_kept),
        lambda: test_a_refused_step_leaves_everything_bit_for_bit("levenberg-marquardt", 1e3),
    ),
    "buffers": (
        *(evaluating, "tensors_kept", lambda tensors: nullcontext()),
        lambda: test_an_accepted_step_is_one_evaluation_for_buffers_and_random_numbers("levenberg-marquardt"),
    ),
    "gradients": (
        *(evaluating, "gradients_kept", lambda parameters: nullcontext()),
        lambda: test_gradients_stay_those_of_the_step("levenberg-marquardt"),
    ),
}


@pytest.mark.parametrize("what", LEFT)
def test_notices_what_is_not_put_back(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutations: these stay as a trial has left them."""
    require_noticed(LEFT[what], monkeypatch)


def test_notices_random_numbers_that_are_not_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation. The first step finds it out."""
    monkeypatch.setattr(evaluating, "replayed", lambda rng: nullcontext())
    with pytest.raises(ValueError, match="at the same parameters"):
        test_a_refused_step_leaves_everything_bit_for_bit("levenberg-marquardt", 1e3)


# what it refuses


@both
def test_a_step_without_a_closure_is_refused(search: str) -> None:
    model = net()
    optimizer = coupled(model, search)
    before = weights(model)
    F.mse_loss(model(data()[0]), data()[1]).backward()
    with pytest.raises(ValueError, match=rf"search='{search}' measures its steps and needs optimizer.step\(closure\)"):
        optimizer.step()
    assert same(weights(model), before)
    assert optimizer.last_step is None


@both
def test_torch_may_ask_for_a_step_that_moves_nothing(search: str) -> None:
    """torch.distributed.checkpoint steps once, without a closure, with zero gradients at rate zero."""
    model = mlp()
    optimizer = OCNOpt(model, curvature="adam", search=search)
    before = weights(model)
    get_optimizer_state_dict(model, optimizer)
    assert same(weights(model), before)


@pytest.mark.parametrize("wrong", [None, "0.3", torch.zeros(2)], ids=["None", "a string", "two numbers"])
def test_a_closure_must_return_the_loss(wrong: Any) -> None:
    model = net()
    optimizer = coupled(model)
    closure = closure_of(model, optimizer, *data())
    with pytest.raises(ValueError, match="it must return the loss, one number"):
        optimizer.step(lambda: (closure(), wrong)[1])


@pytest.mark.parametrize("as_number", [False, True])
def test_a_closure_may_return_a_plain_number(as_number: bool) -> None:
    model = net()
    optimizer = coupled(model)
    closure = closure_of(model, optimizer, *data())
    optimizer.step((lambda: closure().item()) if as_number else closure)
    assert outcome(optimizer).accepted


@both
def test_a_batch_that_changes_is_refused_before_anything_moves(search: str) -> None:
    model, (x, y) = net(), data()
    optimizer = coupled(model, search)
    halves = iter(list(zip(x.chunk(2), y.chunk(2), strict=True)) * 20)
    before = weights(model)
    with pytest.raises(ValueError, match=r"The closure found the losses .* at the same parameters"):
        optimizer.step(lambda: closure_of(model, optimizer, *next(halves))())
    assert same(weights(model), before)


def test_a_closure_that_becomes_random_later_is_named() -> None:
    model = net()
    optimizer = coupled(model, LevenbergMarquardt(tries=3))
    run(model, optimizer, 2)
    closure, noise = closure_of(model, optimizer, *data()), iter(range(100))
    optimizer.step(lambda: closure() + 10.0 * next(noise))
    assert "no decrease, but the closure finds the losses" in outcome(optimizer).reason


def test_a_new_batch_for_every_step_is_fine() -> None:
    model = net()
    optimizer = coupled(model)
    for j in range(4):
        x, y = (part[j * 10 : (j + 1) * 10] for part in data())
        run(model, optimizer, 1, (x, y))
        assert outcome(optimizer).accepted


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LevenbergMarquardt(start=0.0), "start=0.0"),
        (lambda: LevenbergMarquardt(largest=math.inf), "largest=inf"),
        (lambda: LevenbergMarquardt(start=1e12), "smallest ≤ start ≤ largest"),
        (lambda: LevenbergMarquardt(shrink=1.5), "0 < shrink ≤ 1 < grow"),
        (lambda: LevenbergMarquardt(grow=1.0), "0 < shrink ≤ 1 < grow"),
        (lambda: LevenbergMarquardt(accept=1.0), "accept=1.0"),
        (lambda: LevenbergMarquardt(tries=0), "tries=0"),
        (lambda: LevenbergMarquardt(gradient=-1.0), "gradient=-1.0"),
        (lambda: Backtracking(damping=-1.0), "damping=-1.0"),
        (lambda: Backtracking(shorten=1.0), "shorten=1.0"),
        (lambda: Backtracking(armijo=0.0), "armijo=0.0"),
        (lambda: Backtracking(decrease=math.nan), "decrease=nan"),
        (lambda: OCNOpt(net(), search="levenberg"), "levenberg-marquardt"),
    ],
)
def test_options_that_make_no_sense(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()


def test_damping_is_where_it_starts() -> None:
    assert OCNOpt(net(), search="levenberg-marquardt", damping=0.3).search == LevenbergMarquardt(start=0.3)
    assert OCNOpt(net(), search="backtracking", damping=0.3).search == Backtracking(damping=0.3)


# what it says


@both
def test_at_the_optimum_it_does_nothing_and_says_so(search: str) -> None:
    model = net()
    x = data()[0]
    y = model(x).detach()
    before = weights(model)
    for told in run(model, coupled(model, search), 2, (x, y)):
        assert not told.accepted and told.tries == 0 and told.loss == 0.0
        assert told.reason.startswith("converged: the norm of the gradient, 0, is at most")
    assert same(weights(model), before)


def test_it_ends_where_the_loss_cannot_fall() -> None:
    """Targets that contradict each other: the residual stays."""
    model = nn.Linear(2, 1).double()
    x, y = data()
    told = run(model, coupled(model), 60, (torch.cat([x, x]), torch.cat([y, y + 1])))[-1]
    assert not told.accepted and told.reason.startswith("converged: ")
    assert told.loss == pytest.approx(0.25, abs=0.02)


def test_at_the_largest_damping_it_says_so_and_starts_anew() -> None:
    model = net()
    optimizer = coupled(model, LevenbergMarquardt(largest=100.0))
    optimizer.step(hostile(model, optimizer, 1e3))
    assert outcome(optimizer).damping == 100.0
    assert outcome(optimizer).reason == "no decrease at the largest damping; the next step starts from damping 1"
    assert run(model, optimizer, 1)[0].damping == 1.0


def test_out_of_tries_it_goes_on_from_there() -> None:
    model = net()
    optimizer = coupled(model, LevenbergMarquardt(tries=2))
    optimizer.step(hostile(model, optimizer, 1e3))
    assert outcome(optimizer).reason == "no decrease in 2 tries; the next step starts from damping 8"
    assert run(model, optimizer, 1)[0].damping == 8.0


@both
@pytest.mark.parametrize("where", ["targets", "inputs"])
def test_a_loss_that_is_not_finite_skips_the_step(search: str, where: str) -> None:
    model, (x, y) = net(), data()
    (y if where == "targets" else x)[3] = math.nan
    optimizer = coupled(model, search)
    before = snapshot(model, optimizer)
    with pytest.warns(UserWarning, match="OCNOpt skipped a step"):
        run(model, optimizer, 1, (x, y))
    assert outcome(optimizer).reason == "the loss or a gradient is not finite"
    assert same(snapshot(model, optimizer), before)
    assert run(model, optimizer, 1)[0].accepted


def test_nothing_to_train_says_so() -> None:
    model = net()
    optimizer = coupled(model)
    assert optimizer.step(lambda: 1.0) == 1.0
    assert outcome(optimizer).reason == "no parameter has a gradient"


def test_a_rate_of_zero_says_so() -> None:
    model = net()
    optimizer = coupled(model)
    optimizer.param_groups[0]["lr"] = 0.0
    before = weights(model)
    assert run(model, optimizer, 1)[0].reason == "the learning rate is zero"
    assert same(weights(model), before)


def test_one_line_tells_what_became_of_a_step() -> None:
    model = net()
    optimizer = coupled(model)
    told = str(run(model, optimizer, 1)[0])
    assert told.startswith("accepted: loss 0.") and "\n" not in told and "ratio" in told
    optimizer.step(hostile(model, optimizer, math.inf))
    told = str(outcome(optimizer))
    assert told.startswith("not moved: loss 0.") and "\n" not in told and "no decrease" in told
    with pytest.raises(AttributeError):
        outcome(optimizer).accepted = True  # type: ignore[misc]


def test_other_searches_have_no_last_step() -> None:
    model = mlp()
    optimizer = OCNOpt(model)
    F.cross_entropy(model(batch(0)[0]), batch(0)[1]).backward()
    optimizer.step()
    assert optimizer.last_step is None


def test_the_loss_of_the_old_parameters_is_returned_that_of_the_new_ones_told() -> None:
    model, (x, y) = net(), data()
    optimizer = coupled(model)
    before = F.mse_loss(model(x), y).item()
    assert optimizer.step(closure_of(model, optimizer, x, y)).item() == before
    told = outcome(optimizer)
    assert told.loss == F.mse_loss(model(x), y).item()
    assert told.actual == before - told.loss
    assert told.ratio == told.actual / told.predicted


# hard data


def contradicting() -> Data:
    x, y = data(6)
    return torch.cat([x, x]), torch.cat([y, y + 0.1])


HARD: dict[str, tuple[int, Callable[[], Data]]] = {
    "duplicated rows": (1, lambda: tuple(torch.cat([part, part]) for part in data(10))),  # type: ignore[dict-item]
    "the same point with two targets": (1, contradicting),
    "constant targets": (1, lambda: (data()[0], torch.ones(40, 1, dtype=torch.float64))),
    "inputs of zero": (1, lambda: (torch.zeros(10, 2, dtype=torch.float64), data(10)[1])),
    "one sample": (1, lambda: data(1)),
    "more outputs than rows": (5, lambda: data(2, outputs=5)),
    "targets of 1e6": (1, lambda: (data()[0], 1e6 * data()[1])),
}


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", HARD)
def test_hard_data(name: str, search: str, dtype: torch.dtype) -> None:
    """The loss goes down or stays, never up, everything stays finite, and what does not move says why."""
    outputs, make = HARD[name]
    x, y = (part.to(dtype) for part in make())
    model = net(outputs=outputs, dtype=dtype)
    before = F.mse_loss(model(x), y).item()
    outcomes = run(model, coupled(model, search), 15, (x, y))
    losses = [before, *(o.loss for o in outcomes)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.95 * before
    assert all(p.isfinite().all() for p in model.parameters())
    assert all(o.accepted != bool(o.reason) for o in outcomes)


def test_a_jacobian_without_full_rank() -> None:
    """Two outputs that are the same, inputs that are the same: fewer directions than rows and parameters."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x).expand(-1, 2)

    model, x = Twice(), data()[0]
    x[:, 1], y = x[:, 0], torch.sin(2 * x[:, :1])
    outcomes = run(model, coupled(model), 20, (x, torch.cat([y, y], 1)))
    assert all(o.accepted for o in outcomes)
    assert outcomes[-1].loss < 1e-3


def test_parameters_outside_of_the_feedback_take_part() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.body = nn.Parameter(torch.ones(1, dtype=torch.float64)), net()

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * self.body(x)

    model = Scaled()
    optimizer = coupled(model)
    outcomes = run(model, optimizer, 20)
    assert all(o.accepted for o in outcomes)
    assert model.scale.item() != 1.0
    assert not next(row for row in optimizer.coverage() if row.parameter == "scale").feedback


def test_under_autocast() -> None:
    """The closure runs in the user's autocast, the arithmetic of the step outside of it."""
    model, (x, y) = net(dtype=torch.float32), data(dtype=torch.float32)
    optimizer = coupled(model)
    seen = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        output = model(x)
        seen.append(output.dtype)
        loss = F.mse_loss(output.float(), y)
        optimizer.backward(loss, output)
        return loss

    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = [optimizer.step(closure).item() for _ in range(5)]
    assert set(seen) == {torch.bfloat16}
    assert losses[-1] < 0.2 * losses[0]


# saving, loading, copying


def resumed(how: str, model: nn.Module, optimizer: OCNOpt, options: dict[str, Any]) -> tuple[nn.Module, OCNOpt]:
    if how == "deepcopy":
        return copy.deepcopy((model, optimizer))
    if how == "pickle":
        return pickle.loads(pickle.dumps((model, optimizer)))
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights_then, state_then = torch.load(file, weights_only=True)
    other = copy.deepcopy(model)
    for p in other.parameters():
        p.data.zero_()
    other.load_state_dict(weights_then)
    loaded = coupled(other, lr=123.0, **options)
    loaded.load_state_dict(state_then)
    return other, loaded


@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
@pytest.mark.parametrize("cut", [1, 4])
@pytest.mark.parametrize("curvature", ["sgd", "ekfac"])
@both
def test_resume_equals_uninterrupted(search: str, curvature: str, cut: int, how: str) -> None:
    """λ and its growth travel in the state; the second run does not check the closure again."""
    options = {"search": LevenbergMarquardt(start=1e-3) if search == "levenberg-marquardt" else search}
    options["curvature"] = curvature
    model = net()
    optimizer = coupled(model, **options)
    run(model, optimizer, cut)
    other, second = resumed(how, model, optimizer, options)
    assert second.last_step is None
    told, again = run(model, optimizer, 8), run(other, second, 8)
    assert [str(o) for o in told] == [str(o) for o in again]
    assert same(snapshot(model, optimizer), snapshot(other, second))
    assert max(o.tries for o in told) >= 1


def test_diagnostics_show_the_state_of_the_search() -> None:
    model = net()
    optimizer = coupled(model)
    told = run(model, optimizer, 3)
    numbers = optimizer.diagnostics()
    assert numbers["tries"] == sum(o.tries for o in told)
    assert numbers["predicted"] == -told[-1].predicted
    assert numbers["length"] == 1.0 and numbers["growth"] == 2.0
