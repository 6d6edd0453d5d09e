"""Trainers that shard build the optimizer first: then its constructor cannot see what will become of the model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from trainer_cases import batches, network

from ocnopt import OCNOpt


@pytest.fixture
def one_process() -> Iterator[None]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("switched", [False, True], ids=["left alone", "given the new parameters"])
def test_a_model_sharded_later_is_refused_at_the_first_step(switched: bool, one_process: None) -> None:
    """Failing, steps move nothing without a word, or fail with one about mixed tensors."""
    model = network()
    before = list(model.parameters())
    optimizer = OCNOpt(model)
    fully_shard(model)
    if switched:  # as accelerate does
        after = dict(zip(before, model.parameters(), strict=True))
        for group in optimizer.param_groups:
            group["params"] = [after[p] for p in group["params"]]
    ((x, y),) = batches(1)
    F.cross_entropy(model(x), y).backward()
    with pytest.raises(ValueError, match="is sharded over processes, and OCNOpt needs whole ones"):
        optimizer.step()


def test_a_step_without_gradients_is_none() -> None:
    model = network()
    optimizer = OCNOpt(model)
    before = torch.nn.utils.parameters_to_vector(model.parameters()).clone()
    optimizer.step()
    assert torch.equal(before, torch.nn.utils.parameters_to_vector(model.parameters()))
