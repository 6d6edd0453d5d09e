"""nn.RNNCell, nn.GRUCell and nn.LSTMCell: affine maps of input and state, and a function of every unit by itself.

    g_i = W_ih x + b_ih,   g_h = W_hh h + b_hh   (k gates of H units),   outputs = φ(g_i, g_h, state)

φ mixes no units, so ∂φ/∂g is one number for each output, gate and unit: the slopes, by which a cotangent of the
outputs becomes one of g and a change of g becomes one of the outputs. What is left is linear layers. Where φ knows
the sum g_i + g_h alone, they are one, [W_ih b_ih W_hh b_hh] on [x 1 h 1]; else two groups, of which the narrower is
padded with columns of zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ocnopt.core.protocols import Params
from ocnopt.core.trajectory import Call

from .base import MatrixModulePlayer

INPUT, STATE = ("weight_ih", "bias_ih"), ("weight_hh", "bias_hh")


class Met:
    """One call at the cell's parameters, for P positions (calls that lie side by side).

    rows: x (B, P, n) for weight_ih and h (B, P, H) for weight_hh.
    slopes: ∂ outputs / ∂ g for every affine map that φ knows apart, (B, outputs, P, k, H).
    """

    def __init__(self, rows: dict[str, Tensor], slopes: Sequence[Tensor]) -> None:
        self.rows, self.slopes = rows, slopes


class CellPlayer(MatrixModulePlayer):
    """Calls may be stacked as positions: x (B, n) or (B, P, n). Several outputs are laid side by side."""

    merges = True
    dims = 2
    knows = (*INPUT, *STATE)
    maps: ClassVar[tuple[tuple[str, ...], ...]] = ((*INPUT, *STATE),)
    """Parameters of every affine map that φ knows apart, in the order of its columns."""

    def φ(self, g: Sequence[Tensor], state: Sequence[Tensor]) -> Sequence[Tensor]:
        """Outputs (B, P, H) from g (B, P, k, H) of every affine map and the state (B, P, H)."""
        raise NotImplementedError

    @property
    def width(self) -> int:
        """Units, each of which is an output."""
        return self.module.hidden_size

    @property
    def trained(self) -> list[tuple[int, list[str]]]:
        """Every map with parameters that train: its number and their names, a group for each."""
        own = ([name for name in names if name in self.names] for names in self.maps)
        return [(j, names) for j, names in enumerate(own) if names]

    @property
    def groups(self) -> int:
        return len(self.trained)

    @property
    def fan_in(self) -> int:
        """Columns of the wider group."""
        return max(sum(self._columns_of(name) for name in names) for _, names in self.trained)

    def tangent(self, call: Call, d: Params) -> Tensor:
        given, met = self.by_name(d), self.met(call)
        moved = sum(met.slopes[j] * self._change(met, given, names).unsqueeze(1) for j, names in self.trained)
        outputs = moved.sum(-2)  # type: ignore[union-attr]
        return outputs.flatten(1) if len(call.sizes) > 1 else outputs.reshape(self.shape(call))

    def pull(self, call: Call, u: Tensor) -> Params:
        met, pulled = self.met(call), dict[str, Tensor]()
        for j, names in self.trained:
            rows = self._cotangent(met, u.unsqueeze(0), j).flatten(0, 2)
            pulled |= {n: rows.T @ met.rows[n].flatten(0, 1) if n in met.rows else rows.sum(0) for n in names}
        return tuple(pulled[name] for name in self.names)

    def inputs(self, call: Call) -> Tensor:
        rows = self.met(call).rows
        one = next(iter(rows.values())).new_ones(()).expand(*rows["weight_hh"].shape[:2], 1)
        return self._stacked([[rows.get(name, one) for name in names] for _, names in self.trained], dim=0)

    def outputs(self, call: Call, U: Tensor) -> Tensor:
        met = self.met(call)
        return torch.stack([self._cotangent(met, U, j) for j, _ in self.trained], dim=1)

    def to_matrix(self, d: Params) -> Tensor:
        given = self.by_name(d)
        columns = {name: x if name.startswith("weight") else x.unsqueeze(-1) for name, x in given.items()}
        return self._stacked([[columns[name] for name in names] for _, names in self.trained], dim=-3)

    def from_matrix(self, D: Tensor) -> Params:
        found = dict[str, Tensor]()
        for X, (_, names) in zip(D.unbind(-3), self.trained, strict=True):
            widths = [self._columns_of(name) for name in names]
            found |= zip(names, X[..., : sum(widths)].split(widths, dim=-1), strict=True)
        return tuple(found[n] if n.startswith("weight") else found[n].squeeze(-1) for n in self.names)

    def met(self, call: Call) -> Met:
        """The call's rows and slopes, made once."""
        if "met" not in call.memo:
            call.memo["met"] = self._meet(call)
        return call.memo["met"]

    def _meet(self, call: Call) -> Met:
        x, *state = (s.to(self.dtype).reshape(len(s), -1, s.shape[-1]) for s in self._entered(call))
        state = state or [x.new_zeros(*x.shape[:2], self.width)] * self._states
        rows = {"weight_ih": x, "weight_hh": state[0]}
        own = {name: p.detach().to(self.dtype) for name, p in self.module._parameters.items() if p is not None}
        maps = [[name for name in names if name in own] for names in self.maps]
        g = [sum(self._affine(rows, own, names)).unflatten(-1, (-1, self.width)) for names in maps]  # type: ignore
        return Met(rows, self._slopes(g, state))

    _states: ClassVar[int] = 1

    def _entered(self, call: Call) -> list[Tensor]:
        """Input and states; without states the cell begins at zeros."""
        given = dict(zip(("input", "hx"), call.args, strict=False)) | call.kwargs
        hx = given.get("hx")
        return [given["input"], *(() if hx is None else (hx,) if isinstance(hx, Tensor) else hx)]

    @torch.enable_grad()
    def _slopes(self, g: Sequence[Tensor], state: Sequence[Tensor]) -> list[Tensor]:
        """∂φ/∂g (B, outputs, P, k, H): one reverse pass for each output, since every unit stands by itself."""
        leaves = [x.detach().requires_grad_() for x in g]
        outputs = self.φ(leaves, state)
        by_output = [torch.autograd.grad(h.sum(), leaves, retain_graph=True, materialize_grads=True) for h in outputs]
        return [torch.stack(parts, dim=1) for parts in zip(*by_output, strict=True)]

    def _affine(self, rows: dict[str, Tensor], of: dict[str, Tensor], names: Sequence[str]) -> list[Tensor]:
        """W z of the weights and b of the biases, (B, P, kH) or (kH,)."""
        return [F.linear(rows[name], of[name]) if name in rows else of[name] for name in names]

    def _change(self, met: Met, d: dict[str, Tensor], names: Sequence[str]) -> Tensor:
        """dg of one affine map, (B, P, k, H)."""
        change: Any = sum(self._affine(met.rows, d, names))
        lead = met.rows["weight_hh"].shape[:2]
        return change.expand(*lead, -1).unflatten(-1, (-1, self.width))

    def _cotangent(self, met: Met, U: Tensor, j: int) -> Tensor:
        """Of g of the j-th affine map: U (r, B, ...) gives (r, B, P, kH)."""
        slopes = met.slopes[j]
        _, outputs, P, _, H = slopes.shape
        U = U.to(self.dtype).reshape(*U.shape[:2], outputs, P, 1, H)
        return (slopes * U).sum(2).flatten(-2)

    def _columns_of(self, name: str) -> int:
        return self.module._parameters[name].shape[1] if name.startswith("weight") else 1

    def _stacked(self, groups: list[list[Tensor]], dim: int) -> Tensor:
        """Blocks of columns (..., n) side by side, every group padded to the same width."""
        width = self.fan_in
        rows: list[Any] = [torch.cat(blocks, dim=-1) for blocks in groups]
        return torch.stack([F.pad(x, (0, width - x.shape[-1])) for x in rows], dim=dim)


class RNNCellPlayer(CellPlayer):
    """h' = tanh(g) or relu(g), g = g_i + g_h."""

    @classmethod
    def fits(cls, module: nn.Module) -> bool:
        return getattr(module, "nonlinearity", None) in ("tanh", "relu")

    def φ(self, g: Sequence[Tensor], state: Sequence[Tensor]) -> Sequence[Tensor]:
        return (getattr(torch, self.module.nonlinearity)(g[0].squeeze(-2)),)


class LSTMCellPlayer(CellPlayer):
    """c' = σ(f) c + σ(i) tanh(a), h' = σ(o) tanh(c'), with (i, f, a, o) = g_i + g_h."""

    entangled = True
    _states = 2

    def φ(self, g: Sequence[Tensor], state: Sequence[Tensor]) -> Sequence[Tensor]:
        i, f, a, o = g[0].unbind(-2)
        c = f.sigmoid() * state[1] + i.sigmoid() * a.tanh()
        return o.sigmoid() * c.tanh(), c


class GRUCellPlayer(CellPlayer):
    """h' = (1 − z) n + z h, n = tanh(n_i + r n_h), with r and z the sigmoids of g_i + g_h; n knows both apart."""

    maps = (INPUT, STATE)

    def φ(self, g: Sequence[Tensor], state: Sequence[Tensor]) -> Sequence[Tensor]:
        (r_i, z_i, n_i), (r_h, z_h, n_h) = (x.unbind(-2) for x in g)
        z, n = (z_i + z_h).sigmoid(), (n_i + (r_i + r_h).sigmoid() * n_h).tanh()
        return (n + z * (state[0] - n),)
