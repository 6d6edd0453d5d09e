"""States of older versions are read; what belongs to another model or optimizer is refused before anything moves."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from acceptance_cases import OPTIMIZERS, Run, every_kind, same, snapshot
from torch import nn

from ocnopt import OCNOpt
from ocnopt.versions import STAMP, VERSION, unstamped

OURS = [name for name in OPTIMIZERS if name != "adamw"]


def small(width: int = 5, layers: int = 1) -> nn.Module:
    return nn.Sequential(*(nn.Linear(width, width) for _ in range(layers)), nn.Linear(width, 3))


def stepped(model: nn.Module, **options: Any) -> OCNOpt:
    optimizer = OCNOpt(model, **options)
    model(torch.ones(4, model[0].in_features)).square().mean().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize("name", OURS)
def test_a_state_of_version_0_goes_on_bit_for_bit(name: str) -> None:
    """Failing, an update of the library loses every run that is under way."""
    run, resumed = Run(name).train(range(5)), Run(name)
    old, stamp = unstamped(copy.deepcopy(run.optimizer.state_dict()))
    assert stamp["version"] == VERSION and STAMP not in old["param_groups"][0]["clock"]
    resumed.model.load_state_dict(run.model.state_dict())
    resumed.optimizer.load_state_dict(old)
    assert same(snapshot(run.train(range(5, 9))), snapshot(resumed.train(range(5, 9))))


REFUSED = {
    "curvature": (
        lambda: stepped(small(), curvature="kfac"),
        "with curvature=KFAC, and this optimizer has curvature=E",
    ),
    "search": (lambda: stepped(small(), search="fixed"), "with search=none, and this optimizer has search=Bounded"),
    "shape": (lambda: stepped(small(7)), r"of 0.weight has direction of shape \(7, 7\), and the parameter has shape"),
    "layers": (lambda: stepped(small(layers=2)), "has 6 parameters in group 0, and this optimizer 4"),
    "groups": (
        lambda: (model := small()) and stepped(model, params=[{"params": list(x.parameters())} for x in model]),
        "has 2 parameter groups, and this optimizer 1",
    ),
}


@pytest.mark.parametrize("difference", REFUSED)
def test_the_first_difference_is_named(difference: str) -> None:
    """Failing, a state of something else is loaded in part, or fails steps later from deep inside."""
    make, sentence = REFUSED[difference]
    optimizer = stepped(small())
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=sentence):
        optimizer.load_state_dict(make().state_dict())
    assert same(before, optimizer.state_dict())


def test_a_version_of_the_future_is_refused() -> None:
    optimizer = stepped(small())
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["clock"][STAMP]["version"] = VERSION + 1
    with pytest.raises(ValueError, match=f"of version {VERSION + 1}, and this ocnopt reads versions up to {VERSION}"):
        optimizer.load_state_dict(state)


def test_options_may_change() -> None:
    """The rate, the period of the statistics and the feedback are not part of what the state holds."""
    saved = stepped(small(), lr=0.3).state_dict()
    other = stepped(small(), feedback=0.0)
    other.load_state_dict(saved)
    assert other.param_groups[0]["lr"] == 0.3


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_state_moves_to_another_dtype(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Failing, a checkpoint in double or single cannot be fine-tuned in less."""
    run, lower = Run(name).train(range(4)), Run(name, dtype=dtype)
    torch.save((run.model.state_dict(), run.optimizer.state_dict()), tmp_path / "state.pt")
    model, optimizer = torch.load(tmp_path / "state.pt", weights_only=True)
    lower.model.load_state_dict(model)
    lower.optimizer.load_state_dict(optimizer)
    lower.train(range(4, 8))
    assert all(p.dtype == dtype and bool(p.isfinite().all()) for p in lower.model.parameters())
