"""The max-Mahalanobis centre loss, and the deep sigmoid network it is for."""

from __future__ import annotations

import pytest
import torch

from ocnopt_lab.cli import main
from ocnopt_lab.problems import PROBLEMS
from ocnopt_lab.tasks import Classification, MaxMahalanobis
from ocnopt_lab.tasks.centres import simplex


def of_the_paper(classes: int) -> torch.Tensor:
    """Algorithm 1 of Pang et al. (2018), one centre after the other, with C_MM = 1."""
    centres = torch.zeros(classes, classes, dtype=torch.float64)
    centres[0, 0] = 1
    for i in range(1, classes):
        for j in range(i):
            products = float(centres[i] @ centres[j])
            centres[i, j] = -(1 + products * (classes - 1)) / (centres[j, j] * (classes - 1))
        centres[i, i] = (1 - centres[i].square().sum()).clamp(min=0).sqrt()
    return centres


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_centres_are_the_paper_s_up_to_a_rotation(classes: int) -> None:
    ours, theirs = simplex(classes), of_the_paper(classes)
    torch.testing.assert_close(ours @ ours.T, theirs @ theirs.T, atol=1e-7, rtol=0)


def test_the_loss_is_half_the_squared_distance_to_the_centre_of_the_class() -> None:
    task, target = MaxMahalanobis(radius=4.0), torch.tensor([2, 0])
    output = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    centres = 4 * simplex(3)
    expected = sum(0.5 * (output[i] - centres[y]).square().sum() for i, y in enumerate(target)) / 2
    torch.testing.assert_close(task.loss(output, target), expected)
    (g,) = torch.autograd.grad(task.loss(output, target), output)
    torch.testing.assert_close(g, (output - centres[target]) / 2)


def test_the_class_is_that_of_the_nearest_centre() -> None:
    task, output = MaxMahalanobis(), 5 * torch.randn(200, 10)
    nearest = torch.cdist(output, 10 * simplex(10).float()).argmin(1)
    assert task.counted(output, nearest) == 200
    assert task.counted(output, (nearest + 1) % 10) == 0


def test_the_gradient_vanishes_with_depth_and_softmax_but_not_at_the_output_of_this_loss() -> None:
    problem, twin = PROBLEMS["sigmoid-deep"], PROBLEMS["sigmoid-deep-softmax"]
    assert isinstance(problem.task, MaxMahalanobis) and type(twin.task) is Classification
    torch.manual_seed(0)
    model = problem.model((1, 8, 8), 10)
    linear = [module for module in model if isinstance(module, torch.nn.Linear)]
    x, y = torch.randn(64, 1, 8, 8), torch.arange(64) % 10
    norms = {}
    for task in (problem.task, twin.task):
        model.zero_grad()
        task.loss(model(x), y).backward()
        norms[task.name] = [float(layer.weight.grad.norm()) for layer in linear]
    assert len(linear) == 13
    assert all(grads[0] < 1e-6 * grads[-1] for grads in norms.values())
    assert norms["max-mahalanobis"][-1] > 5 * norms["classification"][-1]


def test_it_trains_from_the_command_line() -> None:
    short = ["--epochs", "1", "--train-samples", "64", "--eval-samples", "40", "--quiet"]
    assert main(["train", "sigmoid-deep", *short, "--out", "run"]) == 0
