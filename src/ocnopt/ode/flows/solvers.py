"""How a differential equation is solved: by torchdiffeq, which stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ...core.solves import one_solve
from ..solver import State, torchdiffeq


@dataclass(frozen=True)
class Discretised:
    """``torchdiffeq.odeint``: gradients are those of the steps taken, and memory grows with their number.

    method: of torchdiffeq, such as "dopri5", "rk4", "euler".  rtol, atol: tolerances of the adaptive methods.
    step: of the methods on a fixed grid; None for one step between the times asked for.
    """

    method: str = "dopri5"
    rtol: float = 1e-5
    atol: float = 1e-5
    step: float | None = None

    def end(self, f: nn.Module, state: State, times: Tensor) -> State:
        """The state at the last of the times, from that at the first."""
        with one_solve():
            return self.last(torchdiffeq().odeint, f, state, times)

    def last(self, odeint: Callable[..., State], f: nn.Module, state: State, times: Tensor) -> State:
        options = {} if self.step is None else {"options": {"step_size": self.step}}
        path = odeint(f, state, times, method=self.method, rtol=self.rtol, atol=self.atol, **options)
        return tuple(x[-1] for x in path)


@dataclass(frozen=True)
class Adjoint(Discretised):
    """``torchdiffeq.odeint_adjoint``: gradients by an equation solved backwards in time, at O(1) memory."""

    def end(self, f: nn.Module, state: State, times: Tensor) -> State:
        return self.last(torchdiffeq().odeint_adjoint, f, state, times)
