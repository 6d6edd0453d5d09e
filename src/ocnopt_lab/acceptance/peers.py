"""Optimizers of other packages, at one rate. Nothing is imported before it is built."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn
from torch.optim import Optimizer

from ocnopt_lab.baselines.packages import shampoo, singd, soap
from ocnopt_lab.baselines.torch_optimizers import muon

RATE = 1e-2
"""Of all peers, as of AdamW in these checks: few steps on small networks have to show."""


def heavyball_soap(model: nn.Module, lr: float) -> Optimizer:
    """Without its own torch.compile, which takes minutes per check on a CPU and is not needed for its mathematics."""
    import heavyball

    heavyball.utils.compile_mode = None
    return heavyball.SOAP(model.parameters(), lr=lr)


TABLE: dict[str, tuple[Callable[[nn.Module], Optimizer], str]] = {
    name: (partial(make, lr=RATE), package)
    for name, make, package in (
        ("SOAP", soap, "pytorch_optimizer"),
        ("SOAP (heavyball)", heavyball_soap, "heavyball"),
        ("Shampoo", shampoo, "pytorch_optimizer"),
        ("SINGD", singd, "singd"),
        ("Muon + AdamW", muon, "torch"),
    )
}
"""Name → how it is built, and the distribution it comes from."""
