"""The networks that people train: every parameter moves, the loss falls, nothing is lost in lower precision."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from acceptance_cases import PROBLEMS, Run, every_optimizer, same, weights
from torch import Tensor


def trained(run: Run, steps: int = 8) -> None:
    """Train on one batch, and check what every user looks at first."""
    before = weights(run.model)
    run.train([0] * steps)
    after = weights(run.model)
    assert all(bool(p.isfinite().all()) for p in after.values())
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    assert min(run.losses[-3:]) < 0.97 * run.losses[0]


@every_optimizer
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_network_trains(name: str, problem: str) -> None:
    """Failing, it raises in the forward or backward pass, leaves parameters where they are, or does not learn."""
    trained(Run(name, problem, torch.float32))


@every_optimizer
@pytest.mark.parametrize("problem", ["mlp", "batchnorm-cnn", "tied-language", "gru"])
def test_autocast_to_bfloat16(name: str, problem: str) -> None:
    """Failing, mixed precision stops with a dtype error in ``step``, or drifts since state is kept in bfloat16."""
    run = Run(name, problem, torch.float32)
    run.loss = under_autocast(run.loss)
    trained(run)
    half = [key for state in run.optimizer.state.values() for key, x in state.items() if is_half(x)]
    assert half == []
    assert all(p.dtype == torch.float32 for p in run.model.parameters())


def under_autocast(loss: Callable[[int], Tensor]) -> Callable[[int], Tensor]:
    def inside(step: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(step)

    return inside


def is_half(x: object) -> bool:
    return isinstance(x, Tensor) and x.dtype == torch.bfloat16


FACTORS = {"A", "B", "S", "U_A", "U_B", "inverse_A", "inverse_B"}


@every_optimizer
def test_bfloat16_parameters(name: str) -> None:
    """Failing, a model in bfloat16 breaks in a decomposition, or its factors are rounded to eight bits by loading."""
    run, other = Run(name, "mlp", torch.bfloat16), Run(name, "mlp", torch.bfloat16)
    run.train(range(8))
    other.optimizer.load_state_dict(run.optimizer.state_dict())
    assert all(p.dtype == torch.bfloat16 and bool(p.isfinite().all()) for p in run.model.parameters())
    for optimizer in (run.optimizer, other.optimizer):
        kept = [x for state in optimizer.state.values() for key, x in state.items() if key in FACTORS]
        assert bool(kept) == ("kfac" in name)
        assert all(x.dtype == torch.float32 for x in kept)
    assert same(run.optimizer.state_dict(), other.optimizer.state_dict())
