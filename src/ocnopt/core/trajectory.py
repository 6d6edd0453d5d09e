"""The trajectory of one step: what every player call received and what came back to it.

Layers are time steps, so a training step leaves a trajectory of calls in forward order.
Each call holds the state that entered (z), the first-order information that came back
(v = ∂L/∂h, carrying the 1/B of a mean loss) and, for terminal factors of rank above one,
the pulled-back columns Y. Nothing here outlives the step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from .losses import SoftmaxCrossEntropy

Leaves = list[Tensor | None]
"""A cotangent for each output tensor of a call, None where no gradient arrived."""


@dataclass(eq=False, slots=True)
class Call:
    """One forward call of a player's module.

    args, kwargs: detached inputs of the module; ``z`` is the first of them.
    sizes: shapes of the output tensors; one for almost every module, several for a GRU.
    batch: samples of the call; the tensors may hold only the first few of them.
    leaves: v for each output.  columns: Y_j for each column j of a terminal factor of rank > 1.
    draws: cotangents at sampled labels, on steps that gather statistics of the Fisher matrix.
    sweep: number of the forward sweep (micro-batch) this call belongs to.
    order: position of the module's first call in the step.
    rng: state of the generators before the call, where the module may draw random numbers.
    share: of the time that an ODE took, for calls of its vector field, which move together: all of one solve are one
        call's worth of evidence. 1 for a call of its own.
    count: calls that this one stands for, see ``merging``.
    memo: what a player has made of the inputs, at the parameters of the call. A copy of the call begins without.
    home: a token of the trajectory or evaluation that holds the call, once a gradient has come back to it. Not the
        thing itself: two that hold each other stay in memory until the garbage is collected.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    sizes: tuple[torch.Size, ...]
    sweep: int = 0
    order: int = 0
    batch: int = 0
    rng: Any = None
    leaves: Leaves = field(default_factory=list)
    columns: list[Leaves] = field(default_factory=list)
    draws: Leaves = field(default_factory=list)
    share: float = 1.0
    count: int = 1
    home: object | None = None
    memo: dict[str, Any] = field(default_factory=dict, init=False)

    @property
    def z(self) -> Tensor:
        """The first input, shape (B, ...)."""
        return next(x for x in (*self.args, *self.kwargs.values()) if isinstance(x, Tensor))

    @property
    def v(self) -> Tensor:
        """Cotangent of the output, shape (B, ...); several outputs are laid side by side as (B, n)."""
        return joined(self.leaves, self.sizes)

    @property
    def drawn(self) -> Tensor | None:
        """Cotangent at sampled labels, shaped like v; None on steps without."""
        return joined(self.draws, self.sizes) if self.draws else None

    @property
    def Y(self) -> Tensor:
        """Columns of the terminal factor pulled back to this output, shape (r, B, ...); v alone for rank one."""
        if not self.columns:
            return self.v.unsqueeze(0)
        whole = [joined(column, self.sizes) if arrived(column) else None for column in self.columns]
        like = next(column for column in whole if column is not None)
        return torch.stack([torch.zeros_like(like) if column is None else column for column in whole])

    def emptied(self) -> Call:
        """The call as before anything came back: a kept graph gives it all again to a trajectory that begins anew."""
        self.leaves, self.columns, self.draws, self.memo = [], [], [], {}
        return self

    def weigh(self, weight: float) -> None:
        """Let all that came back count ``weight`` times."""
        self.leaves, self.draws = times(self.leaves, weight), times(self.draws, weight)
        self.columns = [times(column, weight) for column in self.columns]

    def unscale(self, scale: float) -> None:
        """As if the loss had not been multiplied by ``scale``. Products of two columns or draws are curvature."""
        self.leaves = over(self.leaves, scale)
        self.columns = [over(column, scale**0.5) for column in self.columns]
        self.draws = over(self.draws, scale**0.5)


class Outputs(NamedTuple):
    """What a loss was computed from, h (B, ...), and the columns of the terminal factor there, Y (r, B, ...)."""

    h: Tensor
    Y: Tensor


@dataclass(eq=False)
class Sweep:
    """One forward sweep of the model and what its root output revealed.

    batch: number of samples, None where the model was called in parts.
    seen: the softmax cross-entropy recognised at the root output, if it is one.
    core: (B, r, r) terminal core of the columns, or (B, 1, 1) of a rank-one bound, where
        ``optimizer.backward`` computed it; None otherwise.
    coordinates: of v in the columns, (B, r); None where Y = v.
    rank: number of columns captured, 0 where Y = v.
    outputs: what the loss was computed from, where ``optimizer.backward`` was told to keep it.
    """

    batch: int | None = None
    seen: SoftmaxCrossEntropy | None = None
    core: Tensor | None = None
    coordinates: Tensor | None = None
    rank: int = 0
    outputs: Outputs | None = None

    @property
    def elementwise(self) -> bool:
        """Whether the loss acts on every output entry by itself, as far as C for Y = v tells."""
        return self.core is not None and self.rank == 0 and self.seen is None

    def head(self, m: int) -> Sweep:
        """What the root output revealed of the first m samples."""
        seen = None if self.seen is None else self.seen.head(m)
        return replace(self, seen=seen, core=None if self.core is None else self.core[:m])

    def unscale(self, scale: float) -> None:
        """As if the loss had not been multiplied by ``scale``: C for Y = v goes as its inverse, others stay."""
        self.seen = None if self.seen is None else replace(self.seen, s=self.seen.s / scale)
        if self.core is not None and self.rank == 0:
            self.core = self.core * scale
        if self.coordinates is not None:
            self.coordinates = self.coordinates / scale**0.5
        if self.outputs is not None:
            self.outputs = Outputs(self.outputs.h, self.outputs.Y / (scale**0.5 if self.rank else scale))


def times(leaves: Leaves, factor: float) -> Leaves:
    return [x if x is None else x * factor for x in leaves]


def over(leaves: Leaves, divisor: float) -> Leaves:
    """The leaves divided, in float32 at least: what a scale has saved from vanishing must not vanish now."""
    return [x if x is None else x.to(torch.promote_types(x.dtype, torch.float32)) / divisor for x in leaves]


def narrowed(call: Call, m: int) -> Call:
    """The call with the first m samples of everything it holds."""
    batch = call.z.shape[0]
    if batch <= m:
        return call

    def head(x: Any) -> Any:
        return tree_map_only(Tensor, lambda t: t[:m] if t.dim() and t.shape[0] == batch else t, x)

    columns = [head(column) for column in call.columns]
    args, kwargs = head(call.args), head(call.kwargs)
    return replace(call, args=args, kwargs=kwargs, leaves=head(call.leaves), columns=columns, draws=head(call.draws))


def arrived(leaves: Leaves) -> bool:
    """Whether a gradient has come back to any output."""
    return any(leaf is not None for leaf in leaves)


def joined(leaves: Leaves, sizes: tuple[torch.Size, ...]) -> Tensor:
    """One tensor for all outputs of a call: the cotangent itself, or (B, n) with missing ones as zeros.

    The leaves may hold only the first samples of the batch that the sizes tell of. The last states of a GRU,
    (layers, B, n), keep the batch second.
    """
    if not arrived(leaves):
        raise ValueError("No gradient arrived at any output of this call.")
    if len(sizes) == 1:
        return leaves[0]  # type: ignore[return-value]
    batch = sizes[0][0]
    rows = [None if x is None else _rows(x, size.index(batch)) for x, size in zip(leaves, sizes, strict=True)]
    like = next(x for x in rows if x is not None)
    widths = [size.numel() // batch for size in sizes]
    full = [like.new_zeros(len(like), n) if x is None else x for x, n in zip(rows, widths, strict=True)]
    return torch.cat(full, dim=1)


def _rows(leaf: Tensor, dim: int) -> Tensor:
    """(B, n) of a tensor whose batch lies along ``dim``."""
    return leaf.movedim(dim, 0).flatten(1) if leaf.dim() > 1 else leaf.unsqueeze(1)


def moved_size(size: torch.Size, dim: int) -> torch.Size:
    """The shape after ``movedim(dim, 0)``."""
    return torch.Size((size[dim], *size[:dim], *size[dim + 1 :])) if len(size) > dim else size


def mapped(function: Callable[[Tensor], Tensor], args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Inputs of a call with the function applied to every tensor."""
    if not kwargs and all(isinstance(x, Tensor) for x in args):  # as almost always, and much faster
        return tuple(function(x) for x in args), {}
    return tree_map_only(Tensor, function, args), tree_map_only(Tensor, function, kwargs)


def detached(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """Inputs of a call cut off from the graph."""
    return mapped(Tensor.detach, args, kwargs)


def differentiable(output: Any) -> list[Tensor]:
    """The tensors of a module's output that a gradient can come back to."""
    leaves = [output] if isinstance(output, Tensor) else tree_leaves(output)
    return [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
