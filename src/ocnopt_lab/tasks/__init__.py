"""Tasks: what an output is compared with, what is minimised, and what is told of it."""

from ocnopt_lab.tasks.base import Measure, Targets, Task
from ocnopt_lab.tasks.centres import MaxMahalanobis
from ocnopt_lab.tasks.classification import Classification
from ocnopt_lab.tasks.language import NextCharacter
from ocnopt_lab.tasks.regression import Reconstruction, Regression
from ocnopt_lab.tasks.unscaled import Density, Trajectories

__all__ = [
    "Classification",
    "Density",
    "MaxMahalanobis",
    "Measure",
    "NextCharacter",
    "Reconstruction",
    "Regression",
    "Targets",
    "Task",
    "Trajectories",
]
