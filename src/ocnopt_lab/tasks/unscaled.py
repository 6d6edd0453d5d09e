"""Tasks whose one score is the loss itself."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from ocnopt_lab.arrays import Arrays
from ocnopt_lab.errors import LabError
from ocnopt_lab.tasks.base import Measure, Scores, Targets, Task


class _LossAlone(Task):
    """Nothing is counted beside the loss, and the data are made by the problem."""

    def counted(self, output: Tensor, target: Tensor) -> float:
        return 0.0

    def scores(self, loss: float, mean: float) -> Scores:
        return {"loss": loss}

    def targets(self, arrays: Arrays) -> Targets:
        train, test = (torch.from_numpy(y.astype(np.float32)) for y in (arrays.y_train, arrays.y_test))
        return Targets(train, test, arrays.x_train.shape[1], self)

    def check(self, path: Path, arrays: Arrays) -> None:
        raise LabError(f"{path} cannot be used: a problem of {self.name} makes its own data; leave --data out.")


class Trajectories(_LossAlone):
    """Mean squared error of predicted and observed states (B, times, states), in the units of the states."""

    name = "trajectories"
    loss_label = "training mean squared error"
    measure = Measure("loss", "test mean squared error", ".4g", min)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return mse_loss(output, target)


class Density(_LossAlone):
    """Negative log-likelihood per sample, in nats, of a flow; targets are empty (B, 0).

    The output (B, d + 1) is where the flow carries a sample, under a standard normal density, and by how much the
    logarithm of the density has changed on the way: log p = log N(x; 0, I) - ℓ.
    """

    name = "density"
    loss_label = "training negative log-likelihood, nats"
    measure = Measure("loss", "test negative log-likelihood, nats", ".4f", min)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        end, change = output[:, :-1], output[:, -1]
        normal = -0.5 * (end.square().sum(1) + end.shape[1] * math.log(2 * math.pi))
        return -(normal - change).mean()
