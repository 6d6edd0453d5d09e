"""Jets against derivatives that torch.func takes of the same network, made of torch's own layers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from equations_of_tests import model, nonlinear, plain, points
from torch import Tensor, nn

from ocnopt.pde import ACTIVATIONS, Condition, Directions, JetNetwork, Residual
from ocnopt.pde.layers import JetTanh

close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
OBLIQUE = Directions(((0.6, -0.8), (1.0, 2.0), (0.0, 1.0)), twice=2)
each_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def network(activation: str, directions: Directions = OBLIQUE, outputs: int = 2) -> JetNetwork:
    torch.manual_seed(0)
    return JetNetwork([directions.dim, 6, 5, outputs], activation, directions)


def along(f: nn.Module, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """∂_v f and ∂_v² f at the points x, by forward over forward."""

    def slope(x: Tensor) -> Tensor:
        return torch.func.jvp(f, (x,), (v.expand_as(x),))[1]

    return torch.func.jvp(slope, (x,), (v.expand_as(x),))


@each_activation
@pytest.mark.parametrize(
    "directions", [OBLIQUE, Directions.axes(1, 1), Directions.axes(2)], ids=["oblique", "1d", "first"]
)
def test_components_are_the_derivatives(activation: str, directions: Directions) -> None:
    net, x = network(activation, directions), points(9, directions.dim)
    jet = net(x)
    assert jet.shape == (9, 1 + len(directions.vectors) + directions.twice, 2)
    value, first, second = directions.split(jet)
    close(value, plain(net)(x))
    for j, vector in enumerate(directions.vectors):
        slope, bend = along(plain(net), x, torch.tensor(vector, dtype=torch.float64))
        close(first[:, j], slope)
        if j < directions.twice:
            close(second[:, j], bend)


@each_activation
def test_far_from_zero_nothing_overflows(activation: str) -> None:
    layer = ACTIVATIONS[activation](Directions.axes(1, 1))
    jet = torch.tensor([-800.0, 800.0], dtype=torch.float64).reshape(2, 1, 1).repeat(1, 3, 1).requires_grad_()
    out = layer(jet)
    (gradient,) = torch.autograd.grad(out.sum(), jet)
    assert out.isfinite().all() and gradient.isfinite().all()


@each_activation
def test_gradients_are_those_of_nested_autograd(activation: str) -> None:
    """Of the mean square of a residual, which torch differentiates three times here."""
    ours = model(activation=activation)
    ours(*ours.samples).square().mean().backward()
    twin = plain(ours.network)
    x = ours.samples[0][:30].clone().requires_grad_()
    u = twin(x)
    (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope[:, 0].sum(), x, create_graph=True)
    equation = bend[:, 0] + u[:, 0] * slope[:, 1] - torch.sin(x[:, 0])
    y = ours.samples[0][30:]
    (equation.square().mean() + 4.0 * (twin(y)[:, 0] - y.prod(1)).square().mean()).backward()
    for p, q in zip(ours.network.parameters(), twin.parameters(), strict=True):
        close(p.grad, q.grad)


def test_points_may_come_in_any_order_and_in_parts() -> None:
    ours = model()
    x, kind = ours.samples
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(3))
    whole = ours(x, kind)
    close(ours(x[order[:11]], kind[order[:11]]), whole[order[:11]])


def test_conditions_of_different_width_are_padded() -> None:
    pair = Condition(points(4), lambda x, u: torch.cat([u.value, u.first[:, 0]], 1))
    one = Condition(points(6, seed=1), nonlinear)
    ours = Residual(JetNetwork([2, 5, 1], "tanh", Directions.axes(2, 1)), [pair, one])
    out = ours(*ours.samples)
    assert out.shape == (10, 2)
    assert bool((out[4:, 1] == 0).all()) and bool((out[:4] != 0).all()) and bool((out[4:, 0] != 0).all())


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Directions(()), "at least one vector"),
        (lambda: Directions(((1.0,), (1.0, 0.0))), "of the same length"),
        (lambda: Directions(((1.0,),), twice=2), "one of 0 to 1"),
        (lambda: JetNetwork([2, 1], "relu", Directions.axes(2)), "activation='relu' is not known"),
        (lambda: JetNetwork([3, 1], "tanh", Directions.axes(2)), "must begin with the 2 coordinates"),
        (lambda: Condition(torch.zeros(0, 2), nonlinear), "it needs some, in rows"),
        (lambda: Condition(torch.zeros(2, 2), nonlinear, weight=0.0), "must be a positive number"),
        (lambda: Residual(JetNetwork([2, 1], "tanh", Directions.axes(2)), []), "at least one condition"),
    ],
)
def test_what_makes_no_sense_is_refused(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]


def test_notices_a_lost_term_of_the_chain_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: σ″ is forgotten."""
    right = JetTanh.derivatives
    monkeypatch.setattr(JetTanh, "derivatives", lambda self, u: right(self, u)._replace(second=torch.zeros_like(u)))
    with pytest.raises(AssertionError):
        test_components_are_the_derivatives("tanh", OBLIQUE)
