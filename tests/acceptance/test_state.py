"""Saving, loading and copying: a run goes on as if nothing had happened."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.checkpoint as dcp
from acceptance_cases import OPTIMIZERS, Run, every_kind, same, snapshot, weights
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict


def by_pickle(x: Any) -> Any:
    return pickle.loads(pickle.dumps(x))


@every_kind
@pytest.mark.parametrize("copied", [copy.deepcopy, by_pickle], ids=["deepcopy", "pickle"])
def test_copies(name: str, copied: Callable[[Any], Any]) -> None:
    """Failing, a copy for another process or a look-ahead fails to build, or its steps move the original."""
    run, other = Run(name).train(range(3)), Run(name)
    other.model, other.optimizer = copied((run.model, run.optimizer))
    other.call = other.model
    before = snapshot(run)
    other.train(range(3, 6))
    assert same(before, snapshot(run))
    assert same(snapshot(run.train(range(3, 6))), snapshot(other))


every_layout = pytest.mark.parametrize("flat", [False, True], ids=["nested", "flat"])


@every_kind
@every_layout
def test_distributed_checkpoint_on_disk(name: str, flat: bool, tmp_path: Path) -> None:
    """Failing, a checkpoint on disk is read into an optimizer that has no place for its state, and is lost silently."""
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    run, resumed = Run(name, "attention").train(range(4)), Run(name, "attention")
    model, optimizer = get_state_dict(run.model, run.optimizer, options=options)
    dcp.save({"model": model, "optimizer": optimizer}, checkpoint_id=tmp_path, no_dist=True)
    model, optimizer = get_state_dict(resumed.model, resumed.optimizer, options=options)
    found = {"model": model, "optimizer": optimizer}
    dcp.load(found, checkpoint_id=tmp_path, no_dist=True)
    set_state_dict(
        resumed.model,
        resumed.optimizer,
        model_state_dict=found["model"],
        optim_state_dict=found["optimizer"],
        options=options,
    )
    assert same(snapshot(run.train(range(4, 8))), snapshot(resumed.train(range(4, 8))))


@every_kind
def test_the_step_that_fills_the_state_moves_nothing(name: str) -> None:
    """Failing, asking for the state before the first step changes the weights, or spoils the steps that follow."""
    run = Run(name)
    before = weights(run.model)
    get_state_dict(run.model, run.optimizer)
    assert same(before, weights(run.model))
    assert all(p.grad is None for p in run.model.parameters())
    plain = Run(name)
    run.train(range(6))
    plain.train(range(6))
    if name == next(iter(OPTIMIZERS)):
        return  # AdamW counts it as a step
    assert same(snapshot(run), snapshot(plain))
