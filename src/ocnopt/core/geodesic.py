"""Geodesic acceleration: the second order of the path that a Gauss-Newton step begins.

The damped step δ₁ is the velocity of a path that is straight in the outputs h as far as they are linear in θ. With
their second derivative along it, the same damped system gives half of the path's acceleration,

    δ₂ = −(JᵀHJ + M)⁻¹ Jᵀ H ½h″        h″ = (2/s)·((h(θ + s δ₁) − h(θ))/s − J δ₁) + O(s)

(Transtrum and Sethna, arXiv 1010.1449 and 1201.5885). h″ takes one forward pass, since J δ₁ is the response of the
step, and in the columns Y of H = Y C Yᵀ only a = Yᵀh″ is wanted. Where 2‖δ₂‖/‖δ₁‖, in the metric M, is large, the
series is of no use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .policy import Step
from .stage import contracted, inner
from .trajectory import Outputs

STRIDE = 0.1
"""s. In doubles half and twice of it make no difference, in single precision less is lost in rounding."""


def second_derivative(
    outputs: Mapping[int, Outputs], moved: Sequence[Tensor], rows: Mapping[int, slice], response: Tensor
) -> Tensor:
    """a (N, r) from h at θ, by sweep, h at θ + s δ₁ in the same order, and the response Yᵀ J δ₁ (N, r).

    Not finite where h is not.
    """
    a = torch.empty_like(response)
    for (sweep, (h, Y)), there in zip(outputs.items(), moved, strict=True):
        kept = slice(rows[sweep].stop - rows[sweep].start)
        change = (there - h)[kept].to(response) / STRIDE
        a[rows[sweep]] = (2 / STRIDE) * (contracted(Y[:, kept].to(response), change) - response[rows[sweep]])
    return a


def ratio(first: Sequence[Step], second: Sequence[Step]) -> float:
    """2‖δ₂‖/‖δ₁‖ in the metric."""
    return 2 * (square(second) / square(first)) ** 0.5


def square(steps: Sequence[Step]) -> float:
    """⟨δ, M δ⟩."""
    return -sum(float(inner(step.step, step.effective)) for step in steps)
