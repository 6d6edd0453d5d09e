"""Classes as points that lie as far from each other as they can."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ocnopt_lab.tasks.base import Measure
from ocnopt_lab.tasks.classification import Classification


@dataclass(frozen=True)
class MaxMahalanobis(Classification):
    """The max-Mahalanobis centre loss ½|z − μ_y|² of outputs z (B, classes), a mean over the batch.

    Pang et al. (2020), Rethinking softmax cross-entropy loss for adversarial robustness. The centres are the corners of
    a regular simplex around the origin; the class of an output is that of the nearest one. Its gradient does not
    vanish where the outputs of a deep network all begin alike.

    radius: |μ|, C_MM of the paper.
    """

    name = "max-mahalanobis"
    loss_label = "training max-Mahalanobis centre loss"
    measure = Measure("accuracy", "test accuracy", ".2%", max)

    radius: float = 10.0

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        centres = self.radius * simplex(output.shape[1]).to(output)
        return 0.5 * (output - centres[target]).square().sum() / len(output)

    def counted(self, output: Tensor, target: Tensor) -> float:
        # All centres are of one length: the nearest is the one with the largest product.
        products = output @ simplex(output.shape[1]).to(output).T
        return float((products.argmax(1) == target).sum())


@cache
def simplex(classes: int) -> Tensor:
    """Unit vectors with inner products −1/(classes − 1): (classes, classes), up to a rotation the paper's."""
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    return centred * (classes / (classes - 1)) ** 0.5
