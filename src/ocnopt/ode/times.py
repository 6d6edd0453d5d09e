"""When an ODE ends, and when it begins, as controls.

The end time T moves the final state by F(T, x(T)) δT, and nothing else: Q_T = Σ_i q_iᵀ F_i (+ c T for a penalty ½cT²),
and, in Gauss-Newton form, Q_TT = Σ_i C_i (q_iᵀ F_i)² (+ c). For a module that adds (T − T₀) F to x(T), with T₀ the
present value of T, this is what plain automatic differentiation and the Bellman pass give, so T is a player like any
other, behind all layers of the field: δT = −Q_TT⁻¹ (Q_T + Q_Tθ δθ), section 4.3 of SNOpt (arXiv 2109.14158).

A field that has learned nothing has no slope in T, and the penalty alone would end its time. So a logarithmic barrier
stands before the end of a solve, as in interior-point methods, and its parameter is the loss L that is still to be
removed: ½cT² − L log(T − t₀). Where the loss does not depend on T, that is least where the time costs as much as there
is to gain, c T (T − t₀) = L, from wherever T starts; as L goes, the barrier goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..core.protocols import Params
from ..core.trajectory import Call
from ..players import MatrixModulePlayer, register
from .solver import State

_SLACK = 1e-5
"""Of what is in reach, so that a time which is put back after a trial stays as it was whatever the rounding."""


class TerminalTime(nn.Module):
    """The end (or beginning) of an ODE as something to learn.

    Args:
        time: where to start.  low, high: bounds, into which it is moved at the next forward pass.
        penalty: c in ½ c T², in units of the loss, which ``penalty(loss)`` gives, and which is to be added to the loss.
        reach: by which part the ODE may become longer from one forward pass to the next, or the next longer than this
            one if it becomes shorter: a quadratic measured at T tells little of times far from it. math.inf: no limit.

    Raises ValueError unless low ≤ time ≤ high, the penalty is finite and not negative, and reach is positive.
    """

    within: Tensor
    """(2,), between which T may lie at the next forward pass."""

    def __init__(
        self,
        time: float,
        *,
        low: float = -math.inf,
        high: float = math.inf,
        penalty: float = 0.0,
        reach: float = 0.5,
    ) -> None:
        if not (math.isfinite(time) and low <= time <= high and low < high):
            raise ValueError(f"TerminalTime({time}, low={low}, high={high}) needs low ≤ time ≤ high and low < high.")
        if not 0 <= penalty < math.inf:
            raise ValueError(f"TerminalTime(penalty={penalty}) must be finite and not negative.")
        if not reach > 0:
            raise ValueError(f"TerminalTime(reach={reach}) must be positive; math.inf sets no limit.")
        super().__init__()
        self.low, self.high, self.weight_of_penalty, self.reach = low, high, penalty, reach
        self.curvature_of_penalty = penalty
        self.other: float | None = None
        self.time = nn.Parameter(torch.tensor([float(time)]))
        self.register_buffer("within", torch.tensor([-math.inf, math.inf]))

    @property
    def value(self) -> float:
        """T as a number, within its bounds and what is in reach of the last forward pass."""
        T, (least, most) = float(self.time.detach()), self.within.tolist()
        slack = _SLACK * (most - least)
        if not least - slack <= T <= most + slack:
            T = min(max(T, least), most)
        return min(max(T, self.low), self.high)

    @torch.no_grad()
    def project(self) -> None:
        """Move T to its value, whoever has moved it out."""
        if (value := self.value) != float(self.time):
            self.time.fill_(value)

    @torch.no_grad()
    def narrow(self, other: float) -> None:
        """T is used with this other end: from here on it goes no further than the reach, either way and back."""
        self.other = other
        if math.isfinite(self.reach):
            length = self.value - other
            ends = other + length / (1 + self.reach), other + length * (1 + self.reach)
            self.within.copy_(torch.tensor(sorted(ends)))

    def forward(self, *tensors: Tensor) -> State:
        """x + (T − T₀) F, which is x, for a state x of k tensors followed by the k of F."""
        k = len(tensors) // 2
        move = self.time - self.time.detach()
        return tuple(x + move.to(x.dtype) * F for x, F in zip(tensors[:k], tensors[k:], strict=True))

    def penalty(self, loss: Tensor | float = 0.0) -> Tensor:
        """½ c T² − L log|T − other end|, the second part for c > 0 and while there is a loss L to be removed.

        loss: without the penalty, one number, which is not differentiated; below zero, as of a density, it counts as 0.

        Raises ValueError for a loss of several numbers, RuntimeError for one that comes before the first forward pass.
        """
        c = self.weight_of_penalty
        L = number(loss) if c else 0.0
        quadratic = 0.5 * c * self.time.square().sum()
        self.curvature_of_penalty = c
        if L == 0:
            return quadratic
        if self.other is None:
            raise RuntimeError(
                "penalty(loss) needs the other end of the ODE: call the model before it, as for the loss itself."
            )
        length = self.time - self.other
        # Short of the balance the barrier is steeper than that, and the reach holds the step: the average over
        # the steps would remember it for long.
        self.curvature_of_penalty += min(L / float(length.detach()) ** 2, c)
        return quadratic - L * length.abs().log().sum()

    def extra_repr(self) -> str:
        return f"{self.value:g}, low={self.low:g}, high={self.high:g}, penalty={self.weight_of_penalty:g}"


class TimePlayer(MatrixModulePlayer):
    """f_T = F(T, x(T)): each sample is one row, with z = 1 and u = q_iᵀ F_i, so that B is Q_TT itself and A is 1."""

    knows = ("time",)
    shrinks = False
    """The penalty says what time costs; 3 % of a stiff T would outweigh it."""

    @property
    def width(self) -> int:
        """A sample is one row, however large the state."""
        return 2**62

    @property
    def private(self) -> float:
        """c of the penalty ½ c T² + L/(T − t₀)² of its barrier, 2c at the most."""
        return self.module.curvature_of_penalty

    def rate(self, call: Call) -> Tensor:
        """F of every sample, its tensors side by side, (B, n)."""
        parts = call.args[len(call.args) // 2 :]
        return torch.cat([F.to(self.dtype).reshape(len(F), -1) for F in parts], dim=1)

    def tangent(self, call: Call, d: Params) -> Tensor:
        dh = self.rate(call) * d[0].to(self.dtype)
        return dh.view(self.shape(call)) if len(call.sizes) == 1 else dh

    def pull(self, call: Call, u: Tensor) -> Params:
        return ((self.rate(call) * u.to(self.dtype).reshape(len(u), -1)).sum().view(1),)

    def inputs(self, call: Call) -> Tensor:
        F = self.rate(call)
        return F.new_ones(1, len(F), 1, 1)

    def outputs(self, call: Call, U: Tensor) -> Tensor:
        rows = U.to(self.dtype).reshape(*U.shape[:2], -1)
        return torch.einsum("rbn,bn->rb", rows, self.rate(call))[:, None, :, None, None]

    def to_matrix(self, d: Params) -> Tensor:
        return d[0].to(self.dtype)[..., None, None]

    def from_matrix(self, D: Tensor) -> Params:
        return (D[..., 0, 0],)


register(TerminalTime, TimePlayer)


def number(loss: Tensor | float) -> float:
    """The loss as a number, 0 where it is negative."""
    value = torch.as_tensor(loss).detach()
    if value.numel() != 1:
        raise ValueError(f"penalty(loss) takes the loss as one number, not {tuple(value.shape)}: reduce it first.")
    return float(value.clamp(min=0))


def time_curvature(field: nn.Module, loss: Callable[[Tensor], Tensor], x1: Tensor, t1: float) -> tuple[Tensor, Tensor]:
    """dL/dT and the full d²L/dT² of loss(x(T)), by differentiating along the flow.

        dL/dT = Φ_xᵀ F          d²L/dT² = Fᵀ Φ_xx F + Φ_xᵀ (F_x F + F_t)

    The second is not what curvature uses, whose Gauss-Newton form leaves out Φ_xᵀ(F_x F + F_t).
    field: F(t, x).  loss: of the final state, one number.  x1: x(T), (B, ...).
    """
    with torch.enable_grad():
        t = torch.tensor(t1, dtype=x1.dtype, device=x1.device, requires_grad=True)
        x = x1.detach().requires_grad_()
        (Φ_x,) = torch.autograd.grad(loss(x), x, create_graph=True)
        F = field(t, x)
        slope = (Φ_x * F).sum()
        along_t, along_x = torch.autograd.grad(slope, (t, x), allow_unused=True, materialize_grads=True)
    return slope.detach(), along_t + (along_x * F.detach()).sum()
