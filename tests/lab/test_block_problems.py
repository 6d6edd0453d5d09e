"""The residual and inception problems: their shapes, and that the game finds their blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ocnopt.game import Block, find_stages
from ocnopt_lab.cli import main
from ocnopt_lab.errors import LabError
from ocnopt_lab.problems import PROBLEMS
from ocnopt_lab.problems.residual import BasicBlock

NAMES = ("resnet-small", "inception-small", "cifar10-resnet18")
SMALL = NAMES[:2]


def shortcut_block(name: str) -> Block:
    return Block(name, "residual", ((f"{name}.conv1", f"{name}.conv2"), (f"{name}.downsample.0",)))


def inception(name: str) -> Block:
    deep = tuple((f"{name}.branch{j}.0", f"{name}.branch{j}.3") for j in (2, 3))
    return Block(name, "inception", (*deep, (f"{name}.branch1.0",), (f"{name}.branch4.1",)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("in_shape", [(1, 28, 28), (3, 32, 32), (2, 9, 13)])
def test_images_of_any_size_become_one_score_per_class(name: str, in_shape: tuple[int, ...]) -> None:
    model = PROBLEMS[name].model(in_shape, 7)
    assert model(torch.zeros(2, *in_shape)).shape == (2, 7)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_image_is_refused_in_a_sentence(name: str) -> None:
    smallest = 1 if name in SMALL else 7
    for in_shape, sentence in {
        (64,): "choose an fcn problem",
        (1, smallest, smallest): f"pixels, not {smallest}x{smallest}",
    }.items():
        with pytest.raises(LabError, match=sentence):
            PROBLEMS[name].model(in_shape, 10)


def test_every_stage_of_the_residual_network_has_a_layer_to_align() -> None:
    model = PROBLEMS["resnet-small"].model((1, 28, 28), 10)
    found = find_stages(model, torch.zeros(2, 1, 28, 28))
    assert found.blocks == tuple(shortcut_block(f"block{j}") for j in (1, 2, 3)) and not found.plain
    widths = [model.get_submodule(f"block{j}").downsample[0].weight.shape[:2] for j in (1, 2, 3)]
    assert widths == [(16, 8), (32, 16), (64, 32)]


def test_the_modules_of_the_inception_network_have_four_branches() -> None:
    model = PROBLEMS["inception-small"].model((1, 28, 28), 10)
    assert find_stages(model, torch.zeros(2, 1, 28, 28)).blocks == (inception("inception1"), inception("inception2"))


@pytest.mark.parametrize("name", SMALL)
def test_they_learn(name: str) -> None:
    """Two bright halves are told apart within a few steps."""
    torch.manual_seed(0)
    x, y = torch.randn(16, 1, 12, 12), torch.arange(16) % 2
    x[y == 1, :, :6] += 2
    model = PROBLEMS[name].model((1, 12, 12), 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(cross_entropy(model(x), y))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 5
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_they_are_listed(capsys) -> None:
    assert main(["problems"]) == 0
    printed = capsys.readouterr().out
    for name in SMALL:
        (line,) = (line for line in printed.splitlines() if f" {name} " in line)
        assert "fashion_mnist" in line


def test_resnet18_is_the_published_one() -> None:
    """As many parameters as are known of it on CIFAR-10; of eight blocks three have a 1x1 shortcut."""
    model = PROBLEMS["cifar10-resnet18"].model((3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 11_173_962
    blocks = [module for module in model.modules() if isinstance(module, BasicBlock)]
    assert [not isinstance(block.downsample, nn.Identity) for block in blocks] == [j in (2, 4, 6) for j in range(8)]
