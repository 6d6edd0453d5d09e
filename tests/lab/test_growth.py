"""Exponents of growth, and networks of other sizes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from ocnopt_lab.problems import get
from ocnopt_lab.profiling.floor import Floor
from ocnopt_lab.profiling.growth import exponent, growth
from ocnopt_lab.profiling.measuring import Counted, Measured
from ocnopt_lab.profiling.sizes import Size, along
from ocnopt_lab.profiling.variants import REFERENCE


def test_a_power_is_found_with_its_error() -> None:
    exact = exponent([1, 2, 4, 8], [3 * x**1.5 for x in (1, 2, 4, 8)])
    assert exact.slope == pytest.approx(1.5) and exact.error == pytest.approx(0, abs=1e-6)
    bent = exponent([1, 2, 4], [1, 4, 4])
    # Three points x = 0, 1, 2 in units of log 2 with y = 0, 2, 2: slope 1, residuals 1/3, 2/3, 1/3.
    assert bent.slope == pytest.approx(1) and bent.error == pytest.approx(math.sqrt(6 / 9 / 2))
    assert math.isnan(exponent([1, 2], [1, 2]).error)


def test_growth_stands_beside_that_of_adamw() -> None:
    def at(batch: int) -> Measured:
        seconds = {REFERENCE: batch * 1e-3, "ours": batch**2 * 1e-3}
        counted = {name: Counted({}, 10**6 * batch, Floor(0, 1, 1)) for name in seconds}
        return Measured(Size(batch), {name: np.array([s, s, s]) for name, s in seconds.items()}, {}, counted)

    cells = growth("batch", [at(n) for n in (2, 4, 8)]).cells("ours")
    assert cells[:6] == ("ours", "4.00", "16.00", "64.00", "2.00 ± 0.00", "+1.00") and cells[-1] == "+0.00"


def test_sizes_along_an_axis_hold_the_problems_own() -> None:
    assert [size.batch for size in along(Size(64), "batch", (128, 32))] == [32, 64, 128]
    assert along(Size(64), "depth", ()) == [] and along(Size(8), "width", (0.5,))[0] == Size(8, 0.5)


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [("mnist-fcn", (1, 28, 28), nn.Linear), ("fashion-mnist-cnn", (1, 28, 28), nn.Conv2d)],
)
def test_networks_are_built_wider_and_deeper(name: str, shape: tuple[int, ...], kind: type) -> None:
    def layers(width: float, depth: int) -> list[nn.Module]:
        model = get(name).sized(width, depth).model(shape, 10)
        assert model(torch.zeros(2, *shape)).shape == (2, 10)
        return [module for module in model.modules() if isinstance(module, kind)]

    own, wide, deep = layers(1, 1), layers(2, 1), layers(1, 3)
    assert wide[0].weight.shape[0] == 2 * own[0].weight.shape[0]
    hidden = len(own) - (kind is nn.Linear)
    assert len(deep) - len(own) == 2 * hidden


def test_a_transformer_keeps_its_heads() -> None:
    def model(width: float, depth: int) -> nn.Module:
        return get("char-transformer").sized(width, depth).model((16,), 30)

    found = model(0.5, 2)
    assert found(torch.zeros(2, 16, dtype=torch.long)).shape == (2, 16, 30)
    assert len(found.blocks) == 4 and found.blocks[0].heads == 4 and found.head.in_features == 32
