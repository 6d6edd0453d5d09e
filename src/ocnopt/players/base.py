"""What every player shares: a module, the names of the parameters that train, and one working precision."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ocnopt.core.protocols import Params
from ocnopt.core.trajectory import Call, narrowed


class ModulePlayer:
    """A module seen through the Jacobian f_θ of the parameters ``names``: those that train in this step.

    All arithmetic is done in the parameters' dtype, raised to float32 at least: activations and
    cotangents come as bfloat16 under autocast, and products summed in bfloat16 lose most of their digits.
    """

    is_matrix: ClassVar[bool] = False
    whole: ClassVar[bool] = False
    """Whether a call must keep the inputs of all samples, because outputs of one may depend on the others."""
    any_batch_dim: ClassVar[bool] = False
    """Whether the batch may be moved to dimension 0, since all dimensions but those of the features are positions."""
    merges: ClassVar[bool] = False
    """Whether calls may be stacked along dimension 1, since all between batch and features are positions to it."""
    dims: ClassVar[int] = 1
    """Dimensions of its output, at the least, where there is a batch."""
    entangled: ClassVar[bool] = False
    """Whether an output may be computed from another one."""
    is_lookup: ClassVar[bool] = False
    """Whether f_θ reads rows of one table, see ``core.lookup``."""
    draws: ClassVar[bool] = False
    """Whether the module may draw random numbers that a recomputation must repeat."""
    shrinks: ClassVar[bool] = True
    """Whether the search's shrinkage, which holds down the size of the logits, is meant for its parameters."""
    knows: ClassVar[tuple[str, ...]] = ("weight", "bias")
    """Parameter names a special player can serve; a module that trains others needs the generic one."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]) -> None:
        self.module: Any = module
        self.names = tuple(names)

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        """Whether it can serve this module of its type."""
        return True

    @property
    def parameters(self) -> Params:
        own = self.module._parameters  # what getattr finds in the end, many times a step
        return tuple(own[name] for name in self.names)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """Whose calls are the player's."""
        return (self.module,)

    @property
    def dtype(self) -> torch.dtype:
        return torch.promote_types(self.module._parameters[self.names[0]].dtype, torch.float32)

    def head(self, call: Call, m: int) -> Call:
        """The call with its first m samples, where those are all that their own outputs depend on."""
        return call if self.whole else narrowed(call, m)

    def received(self, call: Call) -> Tensor:
        """The tensor that entered, (B, ...), also where the module was called by keyword."""
        return next(x for x in (*call.args, *call.kwargs.values()) if isinstance(x, Tensor))

    def z(self, call: Call) -> Tensor:
        return self.received(call).to(self.dtype)

    def shape(self, call: Call) -> torch.Size:
        """Of the output for the samples at hand: a call may have kept the inputs of only some."""
        return torch.Size((self.received(call).shape[0], *call.sizes[0][1:]))

    def by_name(self, d: Params) -> dict[str, Tensor]:
        """Parameter-shaped tensors under the names they belong to."""
        return {name: tensor.to(self.dtype) for name, tensor in zip(self.names, d, strict=True)}


class MatrixModulePlayer(ModulePlayer):
    """Parameters that form one matrix [W b] per group g, so that f_θᵀ u = Σ_p u_p z_pᵀ over positions p."""

    is_matrix: ClassVar[bool] = True

    @property
    def groups(self) -> int:
        return 1

    @property
    def width(self) -> int:
        """Output features, by which the positions of a call are counted."""
        return self.parameters[0].shape[0]

    @cached_property
    def shapes(self) -> dict[str, torch.Size]:
        """Of the parameters."""
        return {name: p.shape for name, p in zip(self.names, self.parameters, strict=True)}

    @cached_property
    def fan_in(self) -> int:
        """Columns of the joint matrices [W b]."""
        return self.to_matrix(tuple(torch.empty_like(p, device="meta") for p in self.parameters)).shape[-1]

    @property
    def private(self) -> float:
        """Curvature of the parameters that no call shows, as that of a penalty; a multiple of the identity."""
        return 0.0

    def patches(self, call: Call) -> Tensor:
        """Rows that meet W: (g, B, P, n) with n = weight[0].numel()."""
        raise NotImplementedError

    def outputs(self, call: Call, U: Tensor) -> Tensor:
        """U (r, B, ...) to rows (r, g, B, P, n_out)."""
        raise NotImplementedError

    def inputs(self, call: Call) -> Tensor:
        """Rows that meet [W b]: (g, B, P, n_in), the ones column last, where the bias trains."""
        blocks = [self.patches(call)] if "weight" in self.names else []
        return torch.cat([*blocks, self._ones(call)], dim=-1) if "bias" in self.names else blocks[0]

    def _ones(self, call: Call) -> Tensor:
        """The input the bias meets, (g, B, P, 1)."""
        B, *sample = self.shape(call)
        positions = math.prod(sample) // self.width
        return torch.ones(self.groups, B, positions, 1, dtype=self.dtype, device=self.received(call).device)

    def sample_pull(self, call: Call, U: Tensor) -> Params:
        """Σ_p u_p z_pᵀ of every sample on its own, (r, B, *parameter)."""
        return self.from_matrix(torch.einsum("rgbpo,gbpi->rbgoi", self.outputs(call, U), self.inputs(call)))

    def to_matrix(self, d: Params) -> Tensor:
        """Parameter-shaped (..., *parameter) to [W b]: (..., g, n_out, n_in)."""
        given = self.by_name(d)
        return torch.cat([self._columns(name, given[name]) for name in self.knows if name in given], dim=-1)

    def _columns(self, name: str, tensor: Tensor) -> Tensor:
        """(..., out, *rest) to (..., g, out / g, rest); the bias is one column."""
        shape = self.shapes[name]
        lead = tensor.shape[: tensor.ndim - len(shape)]
        return tensor.reshape(*lead, self.groups, shape[0] // self.groups, math.prod(shape[1:]))

    def from_matrix(self, D: Tensor) -> Params:
        """[W b] (..., g, n_out, n_in) to parameter-shaped (..., *parameter)."""
        width = D.shape[-1] - ("bias" in self.names)
        columns = {"weight": D[..., :width], "bias": D[..., width:]}
        lead = D.shape[:-3]
        return tuple(columns[name].reshape(*lead, *self.shapes[name]) for name in self.names)
