"""Optimizers of other packages, built as their documentation says. Nothing is imported before it is built."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from ocnopt_lab.baselines.kind import Kind


def soap(model: nn.Module, **options: Any) -> Optimizer:
    from pytorch_optimizer import SOAP

    return SOAP(model.parameters(), **options)


def shampoo(model: nn.Module, **options: Any) -> Optimizer:
    from pytorch_optimizer import Shampoo

    return Shampoo(model.parameters(), **options)


def singd(model: nn.Module, **options: Any) -> Optimizer:
    """SINGD trains Linear and Conv2d layers and warns of all others."""
    from singd.optim.optimizer import SINGD

    return SINGD(model, **options)


_DECAYED = frozenset({"lr", "weight_decay"})

PACKAGES: dict[str, Kind] = {
    "soap": Kind(soap, _DECAYED | {"betas"}, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2), {"lr": 3e-3}, package="pytorch-optimizer"),
    "shampoo": Kind(
        shampoo, _DECAYED | {"momentum"}, (1e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0), {"lr": 0.1}, package="pytorch-optimizer"
    ),
    # Its own rate of 1e-3 hardly moves a small network.
    "singd": Kind(singd, _DECAYED | {"momentum"}, (3e-3, 1e-2, 3e-2, 0.1, 0.3), {"lr": 0.1}, package="singd"),
}
