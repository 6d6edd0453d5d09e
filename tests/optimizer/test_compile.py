"""compile=True: the same steps to rounding, and nothing is compiled again once all shapes have been seen."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from optimizer_cases import METHODS, build, mlp, train, twins, weights
from torch import nn

from ocnopt import OCNOpt
from ocnopt.core.compiling import CHOSEN, Compiled


class Counting:
    """A backend that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Any) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def compare(one: nn.Module, other: nn.Module, tolerance: float) -> None:
    for p, q in zip(weights(one), weights(other), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance)


CASES = [
    *((*method, {}) for method in METHODS),
    ("adam", "fixed", {"feedback": 0.0}),
    ("ekfac", "model", {"weight_decay": 0.1}),
]


@pytest.mark.parametrize("curvature, search, options", CASES)
def test_steps_are_the_same_to_rounding(curvature: str, search: str, options: dict) -> None:
    one, other = twins(mlp)
    backend = Counting()
    plain = build(one, curvature, search, **options)
    compiled = build(other, curvature, search, compile=Compiled(backend), **options)
    train(one, plain, 12)
    train(other, compiled, 12)
    compare(one, other, 1e-9)
    one_call = (curvature, search) == ("sgd", "fixed") or options == {"feedback": 0.0}
    assert (backend.graphs == 0) == one_call


@pytest.mark.parametrize("curvature, search", METHODS)
def test_nothing_is_compiled_again(curvature: str, search: str) -> None:
    """Failing, every new rate, step length or λ is a new constant to the compiler."""
    model, backend = mlp(), Counting()
    optimizer = build(model, curvature, search, compile=Compiled(backend))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.97)
    counts = []
    for step in range(15):
        train(model, optimizer, range(step, step + 1))
        schedule.step()
        counts.append(backend.graphs)
    assert counts[5:] == counts[5:6] * 10  # from the sixth step on statistics are not gathered in each
    assert counts[-1] <= 10


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_takes_the_same_steps() -> None:
    one, other = twins(mlp)
    train(one, build(one, "adam"), 4)
    optimizer = build(other, "adam", compile=True)
    train(other, optimizer, 4)
    compare(one, other, 1e-9)
    assert optimizer.compiled == Compiled()


def test_off_compiles_nothing_and_the_choice_is_pickled() -> None:
    model = mlp()
    optimizer = OCNOpt(model)
    train(model, optimizer, 1)
    assert not torch._dynamo.utils.counters["stats"] and CHOSEN.get() is None and optimizer.compiled is None
    other = pickle.loads(pickle.dumps(OCNOpt(model, compile=True)))
    assert other.compiled == Compiled()


@pytest.mark.parametrize("compile", ["inductor", 1, None])
def test_other_choices_are_refused(compile: Any) -> None:
    with pytest.raises(TypeError, match="give True, False, or an ocnopt"):
        OCNOpt(mlp(), compile=compile)


@pytest.mark.parametrize("hooked", ["before", "after"])
def test_model_and_steps_are_both_compiled(hooked: str) -> None:
    one, other = twins(mlp)
    compiled = torch.compile(other, backend="eager")
    if hooked == "after":
        with torch.no_grad():
            compiled(torch.zeros(2, 4, dtype=torch.float64))
    plain, ours = build(one, "ekfac", "model"), build(other, "ekfac", "model", compile=Compiled("eager"))
    train(one, plain, 5)
    train(compiled, ours, 5)
    compare(one, other, 1e-9)
