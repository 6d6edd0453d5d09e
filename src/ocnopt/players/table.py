"""The only registry: which player serves which module, and which modules have none."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized

from ocnopt.pde.layers import JetLinear

from .base import ModulePlayer
from .cells import GRUCellPlayer, LSTMCellPlayer, RNNCellPlayer
from .conv import ConvPlayer, ConvTransposePlayer
from .embedding import EmbeddingPlayer
from .generic import GenericPlayer
from .jet import JetLinearPlayer
from .linear import LinearPlayer, TransposedLinearPlayer
from .norm import BatchNormPlayer, GroupNormPlayer, LayerNormPlayer, RMSNormPlayer

PLAYERS: dict[type[nn.Module], type[ModulePlayer]] = {
    nn.Linear: LinearPlayer,
    JetLinear: JetLinearPlayer,
    nn.Conv1d: ConvPlayer,
    nn.Conv2d: ConvPlayer,
    nn.Conv3d: ConvPlayer,
    nn.ConvTranspose1d: ConvTransposePlayer,
    nn.ConvTranspose2d: ConvTransposePlayer,
    nn.ConvTranspose3d: ConvTransposePlayer,
    nn.Embedding: EmbeddingPlayer,
    nn.RNNCell: RNNCellPlayer,
    nn.GRUCell: GRUCellPlayer,
    nn.LSTMCell: LSTMCellPlayer,
    nn.LayerNorm: LayerNormPlayer,
    nn.RMSNorm: RMSNormPlayer,
    nn.GroupNorm: GroupNormPlayer,
    nn.BatchNorm1d: BatchNormPlayer,
    nn.BatchNorm2d: BatchNormPlayer,
    nn.BatchNorm3d: BatchNormPlayer,
}
FOREIGN: dict[str, type[ModulePlayer]] = {
    "zuko.nn.Linear": LinearPlayer,
    "transformers.pytorch_utils.Conv1D": TransposedLinearPlayer,
}
"""Modules of other packages, by their names: nothing is imported for them."""


def register(module: type[nn.Module], player: type[ModulePlayer]) -> None:
    """Let a player serve a type of module from now on: for modules that lie above this layer."""
    PLAYERS[module] = player


@dataclass(frozen=True)
class Refusal:
    """No player: the parameters take the open-loop update, for a reason that ``coverage()`` can print."""

    reason: str


def find(module: nn.Module, names: tuple[str, ...]) -> ModulePlayer | Refusal:
    """The player of the trainable parameters ``names`` that ``module`` owns directly, or why there is none."""
    if reason := obstacle(module):
        return Refusal(reason)
    kind = special(module)
    if kind is None or not set(names) <= set(kind.knows) or not kind.fits(module):
        kind = GenericPlayer
    return kind(module, names)


def special(module: nn.Module) -> type[ModulePlayer] | None:
    """The player of the module's own type, or of the type whose computation it inherits unchanged."""
    base = next((kind for kind in type(module).__mro__ if served(kind)), None)
    return served(base) if base is not None and computes_as(module, base) else None


def served(kind: type) -> type[ModulePlayer] | None:
    return PLAYERS.get(kind) or FOREIGN.get(f"{kind.__module__}.{kind.__qualname__}")


def computes_as(module: nn.Module, base: type[nn.Module]) -> bool:
    """Whether neither a subclass nor the instance has replaced what the base class computes with."""
    methods = [name for name in ("forward", "_conv_forward", "_output_padding") if hasattr(base, name)]
    return not any(name in vars(module) or getattr(type(module), name) is not getattr(base, name) for name in methods)


def obstacle(module: nn.Module) -> str | None:
    """Why no product with f_θ can be trusted here, as a sentence; None where nothing stands in the way."""
    kind = type(module).__name__
    if is_parametrized(module) or isinstance(module, ParametrizationList):
        return f"{kind} computes its weight by a parametrization, so the trained tensor is not the one it applies."
    if rebuilt_by_hook(module):
        return f"{kind} has its weight rebuilt by a forward pre-hook (old weight_norm, spectral_norm or pruning)."
    if any(True for child in module.children() for _ in child.parameters()):
        return f"{kind} holds a raw parameter of a module whose children own parameters too: its place is not one step."
    if isinstance(module, NonDynamicallyQuantizableLinear):
        return "MultiheadAttention reads its weight without calling it."
    if isinstance(module, nn.SyncBatchNorm):
        return f"{kind} would have to communicate with all ranks for every product."
    if isinstance(module, nn.RNNBase) and not module.batch_first:
        return f"{kind} was built with batch_first=False, so its samples do not lie along dimension 0."
    return lookup_obstacle(module) if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None


def lookup_obstacle(module: nn.Embedding | nn.EmbeddingBag) -> str | None:
    """Options of a lookup whose gradient is not f_θᵀ u, or not a dense tensor."""
    reasons = {
        "max_norm": "rescales its weight inside the forward pass, so the pass is not a function of the weight alone",
        "scale_grad_by_freq": "divides gradients by word counts, so they are not the gradients of the loss",
        "sparse": "asks for sparse gradients, which no curvature here takes",
    }
    options = (name for name in reasons if getattr(module, name))
    return next((f"{type(module).__name__} with {name} {reasons[name]}." for name in options), None)


def rebuilt_by_hook(module: nn.Module) -> bool:
    """A plain tensor among the attributes, next to pre-hooks: what weight_norm and pruning leave for a weight."""
    return bool(module._forward_pre_hooks) and any(isinstance(value, Tensor) for value in vars(module).values())
