"""The next character of a text, at every position of a window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ocnopt_lab.arrays import Arrays
from ocnopt_lab.errors import LabError
from ocnopt_lab.tasks.base import Measure, Scores, Targets, Task


class NextCharacter(Task):
    """Cross-entropy of logits (B, T, characters) and numbers of characters (B, T), in nats per character."""

    name = "language"
    loss_label = "training cross-entropy per character, nats"
    measure = Measure("loss", "test cross-entropy per character, nats", ".4f", min)

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(output.flatten(0, 1), target.flatten())

    def counted(self, output: Tensor, target: Tensor) -> float:
        return float((output.argmax(2) == target).sum()) / target.shape[1]

    def scores(self, loss: float, mean: float) -> Scores:
        return {"loss": loss, "accuracy": mean}

    def targets(self, arrays: Arrays) -> Targets:
        train, test = (torch.from_numpy(y.astype(np.int64)) for y in (arrays.y_train, arrays.y_test))
        return Targets(train, test, 1 + max(int(x.max()) for x in (arrays.x_train, arrays.x_test, train, test)), self)

    def check(self, path: Path, arrays: Arrays) -> None:
        raise LabError(f"{path} cannot be used: a problem of {self.name} reads the text it is named for; drop --data.")
