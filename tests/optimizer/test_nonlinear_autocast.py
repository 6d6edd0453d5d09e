"""rollout="nonlinear" under autocast: the pass is repeated under it, and nothing else is computed under it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from optimizer_cases import batch, build, mlp
from torch.nn import functional as F

from ocnopt.core import rollout
from ocnopt.core.policy import react


@pytest.mark.parametrize("curvature", ["sgd", "adam", "kfac", "ekfac"])
def test_the_policy_keeps_its_precision(curvature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What layers react with is none of autocast's business."""
    model = mlp().float()
    optimizer = build(model, curvature, "model", rollout="nonlinear")
    inside: list[bool] = []

    def heard(*arguments: Any) -> Any:
        inside.append(torch.is_autocast_enabled("cpu"))
        return react(*arguments)

    monkeypatch.setattr(rollout, "react", heard)
    for i in range(3):
        x, y = batch(i, dtype=torch.float32)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    assert inside and not any(inside)
    assert not [name for name in optimizer.tally if name.startswith("nonlinear")]
