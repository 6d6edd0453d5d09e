"""Optimizers of other packages, built as their documentation says. Nothing is imported before it is built."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

RATE = 1e-2
"""Of all peers, as of AdamW in these checks: few steps on small networks have to show."""


def soap(model: nn.Module) -> Optimizer:
    from pytorch_optimizer import SOAP

    return SOAP(model.parameters(), lr=RATE)


def shampoo(model: nn.Module) -> Optimizer:
    from pytorch_optimizer import Shampoo

    return Shampoo(model.parameters(), lr=RATE)


def heavyball_soap(model: nn.Module) -> Optimizer:
    """Without its own torch.compile, which takes minutes per check on a CPU and is not needed for its mathematics."""
    import heavyball

    heavyball.utils.compile_mode = None
    return heavyball.SOAP(model.parameters(), lr=RATE)


def singd(model: nn.Module) -> Optimizer:
    """SINGD trains Linear and Conv2d layers and warns of all others."""
    from singd.optim.optimizer import SINGD

    return SINGD(model, lr=RATE)


class Both(Optimizer):
    """Muon for matrices and AdamW for all other parameters, as one optimizer: parameter groups and state are shared.

    torch's Muon takes no other parameters, and loops and trainers take one optimizer.
    """

    def __init__(self, matrices: list[nn.Parameter], others: list[nn.Parameter]) -> None:
        muon = Muon(matrices, RATE, adjust_lr_fn="match_rms_adamw") if matrices else None
        self.parts = [part for part in (muon, AdamW(others, RATE) if others else None) if part is not None]
        groups = [group for part in self.parts for group in part.param_groups]
        super().__init__(groups, self.parts[-1].defaults)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "parts": self.parts}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups, part.state = [group], self.state
            part.step()
        return loss


def muon(model: nn.Module) -> Optimizer:
    """Embeddings and the last layer are AdamW's, as Muon's documentation has it for what is not a hidden layer."""
    parameters = list(model.parameters())
    outside = {module.weight for module in model.modules() if isinstance(module, nn.Embedding)}
    layers = [module.weight for module in model.modules() if isinstance(module, nn.Linear)]
    outside |= set(layers[-1:])
    matrices = [p for p in parameters if p.ndim == 2 and p not in outside]
    return Both(matrices, [p for p in parameters if p.ndim != 2 or p in outside])


TABLE: dict[str, tuple[Callable[[nn.Module], Optimizer], str]] = {
    "SOAP": (soap, "pytorch_optimizer"),
    "SOAP (heavyball)": (heavyball_soap, "heavyball"),
    "Shampoo": (shampoo, "pytorch_optimizer"),
    "SINGD": (singd, "singd"),
    "Muon + AdamW": (muon, "torch"),
}
"""Name → how it is built, and the distribution it comes from."""
