"""What the tests of all trainers share: a small problem, an optimizer of ours and AdamW as the control."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LinearLR

from ocnopt import OCNOpt

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))

Make = Callable[[nn.Module], Optimizer]
Batch = tuple[Tensor, Tensor]
OPTIMIZERS: dict[str, Make] = {
    "adamw": lambda model: AdamW(model.parameters(), 1e-2),
    "ocnopt": OCNOpt,
    "ocnopt-adam": lambda model: OCNOpt(model, curvature="adam"),
}
"""The first is the control: what a trainer does not keep with it, it need not keep with ours."""

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)
CLIP, ACCUMULATE, STEPS = 0.5, 2, 12


def network() -> nn.Module:
    """Always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.LayerNorm(12), nn.Linear(12, 4))


def batches(count: int = STEPS * ACCUMULATE) -> list[Batch]:
    """(16, 6) inputs, the class of each a function of it."""
    x = torch.randn(count, 16, 6, generator=torch.Generator().manual_seed(1))
    return list(zip(x, 2 * (x[..., 0] > 0).long() + (x[..., 1] > x[..., 2]).long(), strict=True))


def schedule(optimizer: Optimizer) -> LinearLR:
    return LinearLR(optimizer, 1.0, 0.1, STEPS)


def by_hand(make: Make, given: Iterable[Batch], clip: float = CLIP, accumulate: int = ACCUMULATE) -> nn.Module:
    """The loop that all trainers run: micro-batches, clipping, a step, the schedule."""
    model = network()
    optimizer = make(model)
    scheduler = schedule(optimizer)
    for number, (x, y) in enumerate(given, 1):
        (F.cross_entropy(model(x), y) / accumulate).backward()
        if number % accumulate == 0:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
    return model


def equal(a: nn.Module, b: nn.Module) -> bool:
    """Bit for bit."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(p.dtype == q.dtype and torch.equal(p, q) for p, q in pairs)


def feedback_of(optimizer: OCNOpt) -> float:
    """The share of all parameters that took part in the feedback of the last step."""
    told = optimizer.diagnostics()
    return told["parameters with feedback"] / told["parameters"]


def mean_loss(model: nn.Module) -> float:
    """Over the first batches."""
    kind = next(model.parameters()).dtype
    with torch.no_grad():
        return sum(float(F.cross_entropy(model(x.to(kind)), y)) for x, y in batches(8)) / 8
