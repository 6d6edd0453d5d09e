"""Saving and loading: a run goes on as if nothing had happened."""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from ocnopt_lab.acceptance.check import Bench, Contender, require
from ocnopt_lab.acceptance.run import Run, same, snapshot, weights


def by_torch(x: Any) -> Any:
    """Saved, and loaded as torch loads by default: nothing but tensors and plain containers."""
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def resume(contender: Contender, bench: Bench) -> None:
    """Cut after the first step, and between two decompositions."""
    for cut, end in ((1, 2), (6, 8)):
        run, resumed = contender.run().train(range(cut)), contender.run()
        saved = by_torch({"model": run.model.state_dict(), "optimizer": run.optimizer.state_dict()})
        resumed.model.load_state_dict(saved["model"])
        resumed.optimizer.load_state_dict(saved["optimizer"])
        continues(run, resumed, range(cut, end))


def continues(run: Run, resumed: Run, steps: range) -> None:
    """Both go on, to the same bits in weights and state."""
    require(
        same(snapshot(run.train(steps)), snapshot(resumed.train(steps))),
        f"resumed after {steps.start} steps, weights or state differ at step {steps.stop}",
    )


def distributed_state(contender: Contender, bench: Bench) -> None:
    """Nested and flat. Asking for the state of an optimizer that has not stepped makes it step, at a rate of zero."""
    for flat in (False, True):
        options = StateDictOptions(flatten_optimizer_state_dict=flat)
        run, resumed = contender.run().train(range(2)), contender.run()
        model, optimizer = copy.deepcopy(get_state_dict(run.model, run.optimizer, options=options))
        before = weights(resumed.model)
        get_state_dict(resumed.model, resumed.optimizer, options=options)
        require(same(before, weights(resumed.model)), "asking for the state before the first step moves weights")
        set_state_dict(
            resumed.model, resumed.optimizer, model_state_dict=model, optim_state_dict=optimizer, options=options
        )
        continues(run, resumed, range(2, 4))
