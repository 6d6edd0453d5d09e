"""search="bounded": lr is the longest step, large rates mean nothing, a scheduler still does."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from optimizer_cases import batch, build, mlp, one_step, same, train, twins, weights
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ocnopt import OCNOpt
from ocnopt.core.search import Bounded, Model, Quadratic

BOWL = Quadratic(torch.tensor([-1.0, 0.3]).double(), torch.tensor([[4.0, 1.0], [1.0, 2.0]]).double())
"""Its minimum over α ≥ 0 is (0.25, 0)."""
STEADY = Bounded(noise=2.0)
"""For batches of 8 and a bound that is never reached: then λ alone holds back what is noise."""


def moved(lr: float) -> Tensor:
    return lr * Bounded().believable(Bounded().along(BOWL, lr), None)


@pytest.mark.parametrize("lr", [0.25, 0.3, 1.0, 7.0, 1e4])
def test_a_bound_beyond_the_minimum_means_nothing(lr: float) -> None:
    assert torch.allclose(moved(lr), torch.tensor([0.25, 0.0]).double(), rtol=1e-12)


@pytest.mark.parametrize("lr", [1e-6, 0.1, 0.249])
def test_a_bound_before_the_minimum_is_the_step(lr: float) -> None:
    assert torch.allclose(moved(lr), torch.tensor([lr, 0.0]).double(), rtol=1e-12)


def test_without_a_rate_nothing_moves() -> None:
    assert not moved(0.0).any() and moved(0.0).isfinite().all()


@pytest.mark.parametrize("curvature", ["ekfac", "adam"])
def test_at_a_rate_of_one_it_is_the_model_search(curvature: str) -> None:
    model, other = twins(mlp)
    train(model, build(model, curvature, Bounded(noise=1.0, decay=0.8), lr=1.0), 25)
    train(other, build(other, curvature, Model(noise=1.0, decay=0.8), lr=1.0), 25)
    assert same(weights(model), weights(other))


def test_steps_do_not_depend_on_a_rate_that_is_large_enough() -> None:
    model, other = twins(mlp)
    train(model, OCNOpt(model, search=STEADY, lr=64.0), 25)
    losses = train(other, OCNOpt(other, search=STEADY, lr=4096.0), 25)
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(weights(model), weights(other), strict=True))
    assert max(losses[-5:]) < losses[0]


def test_the_multiplier_goes_astray_where_the_bound_does_not() -> None:
    bounded, multiplied = twins(mlp)
    own = train(bounded, OCNOpt(bounded, search="bounded", lr=100.0), 25)
    other = train(multiplied, OCNOpt(multiplied, search="model", lr=100.0), 25)
    assert max(own) < 3 * math.log(3) and max(other) > 10


def test_a_scheduler_shortens_every_step() -> None:
    """By its factor, where the bound is far away as well as where it holds."""
    for lr in (100.0, 1e-3):
        steps = []
        for factor in (1.0, 0.25):
            model = mlp()
            optimizer = OCNOpt(model, search="bounded", lr=lr, feedback=0)  # feedback goes by what others will move
            LambdaLR(optimizer, lambda _, factor=factor: factor)
            before = weights(model)
            one_step(model, optimizer, *batch(0))
            steps.append([b - a for a, b in zip(before, weights(model), strict=True)])
        assert all(torch.allclose(0.25 * a, b, rtol=1e-9) for a, b in zip(*steps, strict=True))


def test_groups_keep_the_ratio_of_their_rates() -> None:
    def step(ratio: float) -> list[Tensor]:
        model = mlp()
        parts = [{"params": model[0].parameters(), "lr": 50.0 * ratio}, {"params": model[5].parameters(), "lr": 50.0}]
        optimizer, before = OCNOpt(model, params=parts, search="bounded"), weights(model)
        one_step(model, optimizer, *batch(0))
        return [b - a for a, b in zip(before, weights(model), strict=True)]

    whole, half = step(1.0), step(0.5)
    assert torch.allclose(0.5 * whole[0], half[0], rtol=1e-9) and torch.allclose(whole[-1], half[-1], rtol=1e-9)


def test_a_resumed_run_goes_on_bit_for_bit() -> None:
    model = mlp()
    optimizer = OCNOpt(model, search="bounded", lr=30.0)
    train(model, optimizer, 12)
    other = copy.deepcopy(model)
    resumed = OCNOpt(other, search="bounded", lr=1.0)
    resumed.load_state_dict(optimizer.state_dict())
    for m, o in ((model, optimizer), (other, resumed)):
        train(m, o, range(12, 24))
    assert same(weights(model), weights(other))


def test_the_state_of_another_search_is_refused() -> None:
    model = mlp()
    optimizer = OCNOpt(model, search="model")
    train(model, optimizer, 2)
    with pytest.raises(ValueError, match="search"):
        OCNOpt(mlp(), search="bounded").load_state_dict(optimizer.state_dict())


def test_by_name_and_by_object() -> None:
    assert OCNOpt(mlp(), search="bounded").search == Bounded() != Model()
    assert OCNOpt(mlp(), search="bounded").param_groups[0]["lr"] == OCNOpt(mlp()).param_groups[0]["lr"] == 0.25
    assert OCNOpt(mlp(), search=Bounded(start=3.0)).search.start == 3.0
