"""Vector fields fitted to observed trajectories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ocnopt_lab.arrays import unchanged
from ocnopt_lab.data import Recipe
from ocnopt_lab.data.systems import SYSTEMS, System
from ocnopt_lab.problems.networks import Factory, Shape
from ocnopt_lab.problems.problem import Problem
from ocnopt_lab.problems.rollout import Field, Rollout
from ocnopt_lab.tasks import Trajectories

_STATES = Recipe(Trajectories(), unchanged)
_DRAWN = 1001  # times in a picture: enough for smooth lines


@dataclass(frozen=True)
class TrajectoryPicture:
    """Truth and fit over the whole time, from initial states that were held out."""

    system: System

    def draw(self, folder: Path, title: str, model: nn.Module) -> None:
        """Writes trajectories.png."""
        from ocnopt_lab.runs import trajectories  # matplotlib: not for those who only look at the table

        assert isinstance(model, Rollout)
        system = replace(self.system, times=_DRAWN)
        _, truth = system.trajectories(0)
        starts, grid = torch.from_numpy(truth[:, 0]).float(), torch.from_numpy(system.grid).float()
        fitted = model.along(starts, grid).double().numpy()
        trajectories.draw(folder, title, system.grid, truth, fitted)


def _rollout(system: System, hidden: tuple[int, ...], power: int) -> Factory:
    def build(in_shape: Shape, outputs: int) -> nn.Module:
        times = torch.from_numpy(system.grid[: system.window]).float()
        return Rollout(Field((outputs, *hidden, outputs), power), times)

    return build


def _problems(name: str, hidden: tuple[int, ...], power: int, epochs: int) -> list[Problem]:
    """Without noise and with it."""
    system = SYSTEMS[name]
    inner = f"field of {len(hidden) + 1} dense layers, tanh, width {hidden[0]}"
    description = inner + (" on the cubes of the states" if power == 3 else "")
    model, pictures = _rollout(system, hidden, power), (TrajectoryPicture(system),)
    return [
        Problem(full, description, full, model, 64, epochs, _STATES, pictures=pictures)
        for full in (name, f"{name}-noisy")
    ]


TRAJECTORIES = (
    *_problems("spiral", (50,), power=3, epochs=20),
    *_problems("lotka-volterra", (32, 32), power=1, epochs=30),
    *_problems("van-der-pol", (32, 32), power=1, epochs=30),
)
