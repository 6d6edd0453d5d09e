"""Optimizers that come from optimal control, for small networks; written here, as no package has them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from ocnopt_lab.baselines.kind import Kind


def emsa(model: nn.Module, **options: Any) -> Optimizer:
    from ocnopt_lab.baselines.emsa import EMSA

    return EMSA(model, **options)


def ddp(model: nn.Module, **options: Any) -> Optimizer:
    from ocnopt_lab.baselines.ddp import DenseDDP

    return DenseDDP(model, **options)


_DECAYED = frozenset({"lr", "weight_decay"})

CONTROL: dict[str, Kind] = {
    "emsa": Kind(emsa, _DECAYED, (0.1, 0.3, 1.0, 3.0, 10.0), {"lr": 1.0}, package="ocnopt"),
    "ddp": Kind(ddp, _DECAYED, (0.03, 0.1, 0.3, 1.0, 3.0), {"lr": 0.3}, package="ocnopt"),
}
