"""Samples in the plane, and the picture of a density."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ocnopt_lab.data.densities import DENSITIES
from ocnopt_lab.runs.density_picture import REACH, Density, draw_density, log_density_on_grid


@pytest.mark.parametrize("name", DENSITIES)
def test_samples_are_standardised_and_seeded(name: str) -> None:
    x = DENSITIES[name](1000, 3)
    assert x.shape == (1000, 2) and x.dtype == torch.float32
    torch.testing.assert_close(x.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(2))
    assert torch.equal(x, DENSITIES[name](1000, 3))
    assert not torch.equal(x, DENSITIES[name](1000, 4))


def test_eight_gaussians_are_eight() -> None:
    x = DENSITIES["8gaussians"](4000, 0)
    octants = torch.round(torch.atan2(x[:, 1], x[:, 0]) / (torch.pi / 4)).long() % 8
    assert octants.bincount(minlength=8).min() > 350
    assert float((x.norm(dim=1) < 0.7).float().mean()) < 0.001


def log_normal(x: Tensor) -> Tensor:
    return -0.5 * (x - torch.tensor([1.0, 0.0])).square().sum(1)


def test_the_grid_has_its_first_coordinate_to_the_right() -> None:
    grid = log_density_on_grid(log_normal, 53)
    row, column = divmod(int(grid.argmax()), 53)
    assert row == 26
    assert column == round((1 + REACH) / (2 * REACH) * 52)


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    x = DENSITIES["moons"](200, 0)
    path = tmp_path / "moons.png"
    draw_density(path, "moons", Density(x, x.flip(0), log_normal), resolution=20)
    assert path.read_bytes().startswith(b"\x89PNG")
