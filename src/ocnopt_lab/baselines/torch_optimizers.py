"""Optimizers of torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn, optim

from ocnopt_lab.baselines.kind import Kind, evaluated


class Both(optim.Optimizer):
    """Muon for matrices and AdamW for all other parameters, as one optimizer: parameter groups and state are shared.

    torch's Muon takes no other parameters, and loops and trainers take one optimizer.
    """

    def __init__(self, matrices: list[nn.Parameter], others: list[nn.Parameter], **options: Any) -> None:
        muon = optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **options) if matrices else None
        adamw = optim.AdamW(others, **options) if others else None
        self.parts = [part for part in (muon, adamw) if part is not None]
        groups = [group for part in self.parts for group in part.param_groups]
        super().__init__(groups, self.parts[-1].defaults)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "parts": self.parts}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = evaluated(closure)
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
            part.step()
        return loss


def muon(model: nn.Module, **options: Any) -> optim.Optimizer:
    """Embeddings and the last layer are AdamW's, as Muon's documentation has it for what is not a hidden layer.

    Kernels of convolutions are AdamW's too: torch's Muon takes nothing but matrices.
    """
    parameters = list(model.parameters())
    outside = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    layers = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    outside |= set(layers[-1:])
    matrices = [p for p in parameters if p.ndim == 2 and p not in outside]
    return Both(matrices, [p for p in parameters if p.ndim != 2 or p in outside], **options)


def _of_parameters(kind: Callable[..., optim.Optimizer], model: nn.Module, **options: Any) -> optim.Optimizer:
    return kind(model.parameters(), **options)


_ADAM = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
_DECAYED, _MOMENTS = frozenset({"lr", "weight_decay"}), frozenset({"lr", "weight_decay", "betas", "foreach"})
_MOMENTUM = frozenset({"lr", "weight_decay", "momentum"})

TORCH: dict[str, Kind] = {
    "adam": Kind(partial(_of_parameters, optim.Adam), _MOMENTS, _ADAM, {"lr": 1e-3}),
    "adamw": Kind(partial(_of_parameters, optim.AdamW), _MOMENTS, _ADAM, {"lr": 1e-3}),
    "sgd": Kind(
        partial(_of_parameters, optim.SGD), _MOMENTUM, (5e-3, 1.5e-2, 5e-2, 0.15, 0.5), {"lr": 0.05, "momentum": 0.9}
    ),
    "rmsprop": Kind(partial(_of_parameters, optim.RMSprop), _MOMENTUM, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2), {"lr": 1e-3}),
    # Muon's own decay is ten times AdamW's; both parts share one rate, and so they share one decay.
    "muon": Kind(muon, _DECAYED, (1e-3, 3e-3, 1e-2, 3e-2, 0.1), {"lr": 1e-2, "weight_decay": 1e-2}),
    "lbfgs": Kind(
        partial(_of_parameters, optim.LBFGS, line_search_fn="strong_wolfe"),
        frozenset({"lr"}),
        (0.1, 0.3, 1.0),
        {"lr": 1.0},
    ),
}
