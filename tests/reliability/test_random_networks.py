"""Any network composed of supported layers takes a step that moves all of it, and has the base optimizer inside."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.core.terminal import Gradient
from ocnopt_lab.reliability.networks import FAMILIES, compose, labels

few = settings(max_examples=12, deadline=None, derandomize=True)
numbers = st.data()


def network(data: st.DataObject, name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = compose(FAMILIES[name], lambda options: data.draw(st.sampled_from(options))).double()
    x = FAMILIES[name].draw(8, torch.Generator().manual_seed(1))
    return model, x.double() if x.is_floating_point() else x


def train(model: nn.Module, x: Tensor, steps: int, **options: object) -> OCNOpt:
    optimizer = OCNOpt(model, **options)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels(x)).backward()
        optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("curvature", ["ekfac", "adam"])
@few
@given(data=numbers)
def test_a_step_moves_every_parameter_that_has_a_gradient(name: str, curvature: str, data: st.DataObject) -> None:
    model, x = network(data, name)
    before = copy.deepcopy(model)
    optimizer = train(model, x, 1, curvature=curvature)
    for (dotted, p), old in zip(model.named_parameters(), before.parameters(), strict=True):
        assert p.grad is not None and bool(p.isfinite().all())
        if float(p.grad.abs().max()) > 1e-12:  # those in front of a normalisation may have none but rounding
            assert not torch.equal(p, old), dotted
    assert {row.parameter for row in optimizer.coverage()} == {dotted for dotted, _ in model.named_parameters()}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("curvature", ["kfac", "adam"])
@few
@given(data=numbers)
def test_without_terminal_curvature_it_is_the_base_optimizer(name: str, curvature: str, data: st.DataObject) -> None:
    """κ = 0 by way of all passes, with a terminal core of zero, and by leaving the passes out."""
    model, x = network(data, name)
    other = copy.deepcopy(model)
    shared = {"curvature": curvature, "search": "fixed"}
    train(model, x, 3, terminal=Gradient(beta=0.0), **shared)
    train(other, x, 3, feedback=0.0, **shared)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-9, atol=1e-11)
