"""Continuous normalizing flows on densities in the plane and on tabular features."""

from __future__ import annotations

from torch import nn

from ocnopt_lab.arrays import unchanged
from ocnopt_lab.data import Recipe
from ocnopt_lab.data.planar import PLANAR
from ocnopt_lab.problems.networks import Factory, Shape
from ocnopt_lab.problems.problem import Problem
from ocnopt_lab.tasks import Density

_SAMPLES = Recipe(Density(), unchanged)
_TABULAR = ("concrete", "energy", "kin8nm", "powerplant", "protein")


def flow(hidden: tuple[int, ...], trace: str) -> Factory:
    """A flow along a field of dense layers that know the time; `trace` is exact or hutchinson."""

    def build(in_shape: Shape, outputs: int) -> nn.Module:
        from ocnopt.ode.fields import Field
        from ocnopt.ode.flows import ContinuousFlow

        return ContinuousFlow(Field(outputs, hidden), outputs, trace=trace)

    return build


def _planar(name: str) -> Problem:
    return Problem(
        f"flow-{name}", "flow, 3 layers, width 64, exact trace", name, flow((64, 64), "exact"), 256, 10, _SAMPLES
    )


def _tabular(name: str) -> Problem:
    model, data = flow((64, 64), "hutchinson"), f"features-{name}"
    return Problem(f"flow-{name}", "flow, 3 layers, width 64, Hutchinson's trace", data, model, 256, 10, _SAMPLES)


FLOWS = (*(_planar(name) for name in PLANAR), *(_tabular(name) for name in _TABULAR))
