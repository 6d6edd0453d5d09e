"""transformers' Conv1D is a linear layer with its weight the other way round, and must be served as one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from trainer_cases import batches

from ocnopt import OCNOpt
from ocnopt.players import find
from ocnopt.players.linear import TransposedLinearPlayer

transformers = pytest.importorskip("transformers", reason="transformers comes with the extra 'trainers'.")
from transformers.pytorch_utils import Conv1D  # noqa: E402


def network(turned: bool) -> nn.Sequential:
    """The same function by nn.Linear or by Conv1D, at two positions."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Flatten(), nn.Linear(16, 4)).double()
    if turned:
        for i in (0, 3):
            plain[i] = as_conv1d(plain[i])
    return plain


def as_conv1d(linear: nn.Linear) -> Conv1D:
    made = Conv1D(linear.out_features, linear.in_features).double()
    with torch.no_grad():
        made.weight.copy_(linear.weight.T)
        made.bias.copy_(linear.bias)
    return made


def trained(turned: bool, frozen: str, **options: str) -> tuple[list[Tensor], OCNOpt]:
    """Parameters after ten steps, weights in the layout of nn.Linear."""
    model = network(turned)
    if frozen:
        for i in (0, 3):
            getattr(model[i], frozen).requires_grad_(False)
    optimizer = OCNOpt(model, **options)
    for x, y in batches(10):
        optimizer.zero_grad()
        F.cross_entropy(model(x.double().unflatten(1, (2, 3))), y).backward()
        optimizer.step()
    return [p.detach().T if turned and p.dim() == 2 else p.detach() for p in model.parameters()], optimizer


@pytest.mark.parametrize("frozen", ["", "weight", "bias"])
@pytest.mark.parametrize(
    "options", [{"curvature": c} for c in ("ekfac", "kfac", "adam")] + [{"value": "coupled"}], ids=str
)
def test_steps_are_those_of_a_linear_layer(options: dict[str, str], frozen: str) -> None:
    """Failing, GPT-2 trains by a diagonal where its layers have a Kronecker form, or with rows for columns."""
    (plain, _), (turned, optimizer) = (trained(turned, frozen, **options) for turned in (False, True))
    assert max(float((p - q).abs().max()) for p, q in zip(plain, turned, strict=True)) < 1e-9
    rows = [row for row in optimizer.coverage() if row.feedback]
    assert {row.player for row in rows} == {"transposedlinear"}
    assert len(rows) == (2 if frozen else 4)


def test_it_is_found() -> None:
    assert isinstance(find(Conv1D(2, 3), ("weight", "bias")), TransposedLinearPlayer)
