"""Steps of OCNOpt on the residual of an equation, against the damped Gauss-Newton step written out."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from equations_of_tests import model
from torch import Tensor

from ocnopt import OCNOpt, solving
from ocnopt.core.acceptance import LevenbergMarquardt
from ocnopt.core.bellman import Problem, backward_pass
from ocnopt.core.joint import joint_steps
from ocnopt.core.policy import Step, forward_pass
from ocnopt.linalg.symmetric import Tally
from ocnopt.pde import Residual
from ocnopt.players.jet import JetLinearPlayer


def theta(net: torch.nn.Module) -> Tensor:
    return torch.nn.utils.parameters_to_vector(net.parameters()).detach().clone()


def jacobian(net: Residual) -> Tensor:
    """∂r/∂θ of all residuals, (B, p)."""
    own = {name: p.detach() for name, p in net.named_parameters()}
    J = torch.func.jacrev(lambda θ: torch.func.functional_call(net, θ, net.samples).flatten())(own)
    return torch.cat([J[name].flatten(1) for name in own], 1)


STRAIGHT = LevenbergMarquardt(acceleration=0.0)


def damped(net: Residual, damping: float) -> Tensor:
    """−(JᵀJ + λ)⁻¹Jᵀr for the mean square, by least squares of the stacked system: no product JᵀJ is formed."""
    J, r = jacobian(net), net(*net.samples).detach().flatten()
    scale = (2 / len(r)) ** 0.5
    root = damping**0.5 * torch.eye(J.shape[1], dtype=J.dtype)
    rows, rest = torch.cat([scale * J, root]), torch.cat([-scale * r, r.new_zeros(J.shape[1])])
    return torch.linalg.lstsq(rows, rest.unsqueeze(1), driver="gelsd").solution[:, 0]


def step(net: Residual, **options: Any) -> Tensor:
    """What one step of OCNOpt has added to the parameters."""
    settings = {"curvature": "sgd", "value": "coupled", "terminal": "gauss-newton", "search": "levenberg-marquardt"}
    optimizer = OCNOpt(net, **{**settings, **options})

    def closure() -> Tensor:
        optimizer.zero_grad()
        residual = net(*net.samples)
        loss = residual.square().mean()
        optimizer.backward(loss, residual)
        return loss

    before = theta(net)
    optimizer.step(closure)
    return theta(net) - before


def deviations(net: Residual, damping: float) -> tuple[float, float]:
    """Of the step proposed at λ, relative to the dense one: by the one linear system, and by the recursion."""
    expected, errors = damped(net, damping), list[float]()

    def compared(problem: Problem, tally: Tally) -> list[Step]:
        joint, recursion = joint_steps(problem, tally), forward_pass(problem, backward_pass(problem))
        for steps in (joint, recursion):
            found = torch.cat([d.flatten() for s in steps for d in s.step])
            errors.append(float((found - expected).norm() / expected.norm()))
        return joint

    with mock.patch.object(solving, "joint_steps", compared):
        step(net, search=LevenbergMarquardt(start=damping, tries=1))
    return errors[0], errors[1]


def near_a_solution(steps: int = 30) -> Residual:
    """Where residuals are small and the Jacobian is far from full rank."""
    net = model()
    optimizer = OCNOpt(net, curvature="sgd", value="coupled", terminal="gauss-newton", search="levenberg-marquardt")

    def closure() -> Tensor:
        optimizer.zero_grad()
        residual = net(*net.samples)
        optimizer.backward(residual.square().mean(), residual)
        return residual.square().mean()

    for _ in range(steps):
        optimizer.step(closure)
    optimizer.remove_hooks()
    return net


def test_a_step_is_the_dense_one() -> None:
    net = model()
    expected = damped(net, 1.0)
    torch.testing.assert_close(step(net, search=STRAIGHT), expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("damping", "bound", "share"), [(1e-2, 1e-10, 1.0), (1e-5, 2e-9, 0.1), (1e-8, 1e-6, 0.1)])
def test_a_small_damping_costs_few_digits(damping: float, bound: float, share: float) -> None:
    """And less than this share of what it costs the recursion."""
    joint, recursion = deviations(near_a_solution(), damping)
    assert joint < bound
    assert joint < share * recursion


def test_every_layer_takes_part() -> None:
    net = model()
    optimizer = OCNOpt(net)
    residual = net(*net.samples)
    residual.square().mean().backward()
    optimizer.step()
    assert all(row.feedback and row.player == "jetlinear" for row in optimizer.coverage())


@pytest.mark.parametrize("curvature", ["sgd", "adam", "kfac", "ekfac"])
def test_every_curvature_goes_down(curvature: str) -> None:
    net = model()
    before = net(*net.samples).square().mean().item()
    step(net, curvature=curvature)
    assert net(*net.samples).square().mean().item() < before


def test_notices_a_bias_that_meets_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the ones column is 1 for all components."""
    for name in ("_ones", "met_by_bias"):
        monkeypatch.delattr(JetLinearPlayer, name)
    with pytest.raises(AssertionError):
        test_a_step_is_the_dense_one()
