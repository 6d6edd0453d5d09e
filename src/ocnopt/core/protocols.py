"""What the Bellman pass asks of a player and of a metric; the core knows nothing else of either.

Two primitives per layer type, nothing else is ever formed (DESIGN, section 2):

    pull(u)      = Σ_i f_θᵀ u_i        parameter-shaped
    tangent(d)_i = f_θ d               output-shaped; resp(U, d)_i = u_iᵀ f_θ d follows from it
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from .trajectory import Call

Params = tuple[Tensor, ...]
"""One tensor per trainable parameter of a player, in the order of ``Player.names``."""


def masked(d: Params, seen: Sequence[Tensor | None] | None) -> Params:
    """d times the masks of its parameters; None stands for all of them, and for a parameter that is seen whole."""
    if seen is None:
        return d
    return tuple(x if mask is None else x * mask.to(x) for x, mask in zip(d, seen, strict=True))


class Player(Protocol):
    """A module together with its trainable parameters, seen through its parameter Jacobian f_θ."""

    names: tuple[str, ...]

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Whose calls are the player's."""
        ...

    @property
    def parameters(self) -> Params: ...

    def tangent(self, call: Call, d: Params) -> Tensor:
        """f_θ d for every sample: shaped like the output of the call."""
        ...

    def pull(self, call: Call, u: Tensor) -> Params:
        """Σ_i f_θᵀ u_i for cotangents u shaped like the output of the call."""
        ...

    def sample_pull(self, call: Call, U: Tensor) -> Params:
        """f_θᵀ u_i for every sample on its own: U (r, B, ...) gives tensors (r, B, *parameter)."""
        ...


class MatrixPlayer(Player, Protocol):
    """A player whose parameters form a matrix [W b] per group, so that f_θᵀ u = Σ_p u_p z_pᵀ."""

    @property
    def width(self) -> int:
        """Output features, by which the positions of a call are counted."""
        ...

    @property
    def fan_in(self) -> int:
        """Columns of the matrices."""
        ...

    @property
    def private(self) -> float:
        """Curvature of the parameters that no call shows, as that of a penalty; for one parameter alone."""
        ...

    def inputs(self, call: Call) -> Tensor:
        """Rows z_p that meet [W b]: (g, B, P, n_in), a one appended where the bias trains."""
        ...

    def outputs(self, call: Call, U: Tensor) -> Tensor:
        """Rows u_p: U (r, B, ...) gives (r, g, B, P, n_out)."""
        ...

    def to_matrix(self, d: Params) -> Tensor:
        """Parameter-shaped (..., *parameter) to joint matrices (..., g, n_out, n_in)."""
        ...

    def from_matrix(self, D: Tensor) -> Params:
        """Inverse of ``to_matrix``."""
        ...
