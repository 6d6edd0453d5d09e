"""Continuous normalizing flows on densities in the plane and on tabular features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ocnopt_lab.arrays import unchanged
from ocnopt_lab.data import Recipe
from ocnopt_lab.data.planar import PLANAR, draw
from ocnopt_lab.problems.networks import Factory, Shape
from ocnopt_lab.problems.problem import Problem
from ocnopt_lab.tasks import Density

_SHOWN = 2000

_SAMPLES = Recipe(Density(), unchanged)
_TABULAR = ("concrete", "energy", "kin8nm", "powerplant", "protein")


def flow(hidden: tuple[int, ...], trace: str) -> Factory:
    """A flow along a field of dense layers that know the time; `trace` is exact or hutchinson."""

    def build(in_shape: Shape, outputs: int) -> nn.Module:
        from ocnopt.ode.flows import ContinuousFlow, Field

        return ContinuousFlow(Field(outputs, hidden), outputs, trace=trace)

    return build


@dataclass(frozen=True)
class DensityPicture:
    """Samples of the data and of the flow, and its density."""

    name: str

    def draw(self, folder: Path, title: str, model: nn.Module) -> None:
        """Writes density.png."""
        from ocnopt.ode.flows import ContinuousFlow
        from ocnopt_lab.runs import densities  # matplotlib: not for those who only look at the table

        assert isinstance(model, ContinuousFlow)
        data = torch.from_numpy(draw(self.name, 0).x_test).float()[:_SHOWN]
        samples = model.sample(len(data), torch.Generator().manual_seed(0))
        shown = densities.Density(data, samples, model.log_prob)
        densities.draw_density(folder / "density.png", title, shown)


def _planar(name: str) -> Problem:
    description, pictures = "flow, 3 layers, width 64, exact trace", (DensityPicture(name),)
    model = flow((64, 64), "exact")
    return Problem(f"flow-{name}", description, name, model, 256, 10, _SAMPLES, pictures=pictures)


def _tabular(name: str) -> Problem:
    model, data = flow((64, 64), "hutchinson"), f"features-{name}"
    return Problem(f"flow-{name}", "flow, 3 layers, width 64, Hutchinson's trace", data, model, 256, 10, _SAMPLES)


FLOWS = (*(_planar(name) for name in PLANAR), *(_tabular(name) for name in _TABULAR))
