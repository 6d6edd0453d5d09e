"""Leading singular vectors of an operator that is known by its products alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor

from ocnopt.core.protocols import Params
from ocnopt_lab.policies.feedback import Feedback

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Leading:
    """σ = ‖K‖, and the deviation of unit length that the layer reacts to most, (N, *input)."""

    gain: float
    direction: Tensor

    @property
    def shares(self) -> Tensor:
        """How much of the direction is each sample's: (N,), they sum to one."""
        return self.direction.flatten(1).square().sum(1)


def leading(feedback: Feedback) -> Leading:
    """The leading right singular vector of K and its singular value, by Lanczos iterations on products with K and Kᵀ.

    Its sign is free, and is chosen so that the largest entry is positive.
    """
    operator = operator_of(feedback)
    probe = np.random.default_rng(0).normal(size=operator.shape[0])
    if not np.any(operator.rmatvec(probe)):
        return Leading(0.0, torch.zeros(feedback.state_shape))
    start = np.random.default_rng(1).normal(size=min(operator.shape))
    _, (gain,), (vector,) = svds(operator, k=1, v0=start, tol=1e-9)
    direction = torch.from_numpy(vector * np.sign(vector[np.abs(vector).argmax()])).view(feedback.state_shape)
    return Leading(float(gain), direction)


def operator_of(feedback: Feedback) -> LinearOperator:
    """K for scipy, between vectors of float64."""
    like = feedback.stage.gradient[0]
    shapes = feedback.parameter_shapes
    sizes = [prod(shape) for shape in shapes]

    def parameters(d: Vector) -> Params:
        parts = torch.from_numpy(d.ravel().copy()).to(like).split(sizes)
        return tuple(part.view(shape) for part, shape in zip(parts, shapes, strict=True))

    def react(x: Vector) -> Vector:
        deviation = torch.from_numpy(x.ravel().copy()).to(like).view(feedback.state_shape)
        return torch.cat([d.flatten() for d in feedback.react(deviation)]).double().cpu().numpy()

    def adjoint(d: Vector) -> Vector:
        return feedback.adjoint(parameters(d)).flatten().double().cpu().numpy()

    shape = sum(sizes), prod(feedback.state_shape)
    return LinearOperator(shape, matvec=react, rmatvec=adjoint, dtype=np.float64)
