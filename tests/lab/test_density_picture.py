"""The picture of a density in the plane."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ocnopt_lab.runs.densities import REACH, Density, draw_density, log_density_on_grid


def log_normal(x: Tensor) -> Tensor:
    return -0.5 * (x - torch.tensor([1.0, 0.0])).square().sum(1)


def test_the_grid_has_its_first_coordinate_to_the_right() -> None:
    grid = log_density_on_grid(log_normal, 53)
    row, column = divmod(int(grid.argmax()), 53)
    assert row == 26
    assert column == round((1 + REACH) / (2 * REACH) * 52)


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    x = torch.randn(200, 2)
    path = tmp_path / "moons.png"
    draw_density(path, "moons", Density(x, x.flip(0), log_normal), resolution=20)
    assert path.read_bytes().startswith(b"\x89PNG")
