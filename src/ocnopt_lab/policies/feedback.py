"""The feedback gain K_t of one layer, by its products with vectors.

The policy is δθ_t = k_t + K_t δx_t for deviations δx_t of what enters the layer, one for each sample of the batch.
In the coordinates of the value Hessian, V_xx = Y C Yᵀ behind the layer, with Z_i = f_xᵀ Y_i, the same columns in front
of it (DESIGN, section 2, with e_i = Z_iᵀ δx_i):

    K δx = −M⁻¹ pull(C Zᵀδx)        Kᵀ d = −Z C resp(M⁻¹ d)

K has as many columns as the whole batch has entries at this layer, and is never formed. Control limits on the feedback
bound its weights; K is the slope within them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ocnopt.core.bellman import Gain
from ocnopt.core.protocols import Params
from ocnopt.core.stage import Stage, contracted, minus, weighted
from ocnopt.core.value import Value

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, eq=False)
class Feedback:
    """K_t of one layer on the N samples that the feedback sees.

    entering: Z, the columns in front of the layer, (r, N, *input).
    """

    gain: Gain
    value: Value
    entering: Tensor

    @property
    def stage(self) -> Stage:
        return self.gain.stage

    @property
    def state_shape(self) -> torch.Size:
        """(N, *input)."""
        return self.entering.shape[1:]

    @property
    def parameter_shapes(self) -> list[torch.Size]:
        """Of the layer's parameters, in the order in which they stand in a step."""
        return [p.shape for p in self.stage.gradient]

    def react(self, deviation: Tensor) -> Params:
        """K δx for δx (N, *input): parameter-shaped."""
        c = self.value.weigh(self.gain.C, contracted(self.entering, deviation).to(self.gain.C))
        return minus(self.stage.solve(self.stage.pull(c)))

    def adjoint(self, d: Params) -> Tensor:
        """Kᵀ d for d parameter-shaped: (N, *input)."""
        response = self.stage.resp(self.stage.solve(d))
        weight = self.stage.samples.weight
        c = self.value.weigh(self.gain.C, response if weight is None else weight[:, None] * response)
        return -weighted(self.entering, c)


def feedback_of(gain: Gain, value: Value) -> Feedback | None:
    """K_t at the present weights; None for stages other than one call of a linear layer or a convolution."""
    stage = gain.stage
    modules, calls = stage.player.modules, stage.calls
    if len(modules) != 1 or not isinstance(modules[0], LAYERS) or len(calls) != 1 or calls[0].count != 1:
        return None
    return Feedback(gain, value, in_front_of(modules[0], calls[0].z, calls[0].Y))


def in_front_of(module: nn.Module, z: Tensor, Y: Tensor) -> Tensor:
    """f_xᵀ Y for columns Y (r, N, ...) behind a module that received z (N, ...): (r, N, ...)."""
    with torch.enable_grad():
        entering = z.detach().requires_grad_()
        output = module.forward(entering)  # past the hooks: this is no call of the trajectory
    columns = [torch.autograd.grad(output, entering, y.to(output.dtype), retain_graph=True)[0] for y in Y]
    return torch.stack(columns)
