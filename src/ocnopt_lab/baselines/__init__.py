"""Optimizers to compare with, by the names of the command line: a new one is an entry of a table named here."""

from ocnopt_lab.baselines.control import CONTROL
from ocnopt_lab.baselines.kind import Kind
from ocnopt_lab.baselines.packages import PACKAGES
from ocnopt_lab.baselines.torch_optimizers import TORCH

BASELINES: dict[str, Kind] = {**TORCH, **PACKAGES, **CONTROL}

__all__ = ["BASELINES", "Kind"]
