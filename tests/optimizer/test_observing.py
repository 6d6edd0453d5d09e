"""observe(): one step is looked into, and comes out the same; the others do what they did before it was there."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from optimizer_cases import METHODS, NETWORKS, batch, build, mlp, one_step, same, snapshot, train
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ocnopt import OCNOpt, observing
from ocnopt.core.acceptance import LevenbergMarquardt
from ocnopt.curvature import decompositions
from ocnopt.game.blocks import Block
from ocnopt.linalg.symmetric import DecompositionError, Tally, eigh

AXES: dict[str, dict[str, Any]] = {
    **{f"{curvature}, {search}": {"curvature": curvature, "search": search} for curvature, search in METHODS},
    "coupled": {"value": "coupled"},
    "robust": {"value": "robust"},
    "nonlinear": {"rollout": "nonlinear"},
    "no feedback": {"feedback": 0.0},
    "levenberg-marquardt": {"curvature": "sgd", "value": "coupled", "search": "levenberg-marquardt"},
    "backtracking": {"curvature": "kfac", "search": "backtracking"},
}


class Counting(TorchDispatchMode):
    """How many operations torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def steps(network: str, observed: set[int], **options: Any) -> tuple[nn.Module, OCNOpt, list[int]]:
    """Five steps, of which some are observed; operations of each step()."""
    make, draw, loss_of = NETWORKS[network]
    model, counts = make(), []
    optimizer = OCNOpt(model, **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model, draw())
        loss.backward()
        return loss

    for number in range(1, 6):
        if number in observed:
            optimizer.observe()
        with Counting() as counting:
            optimizer.step(closure)
        counts.append(counting.count)
    return model, optimizer, counts


CASES = [*(("mlp", axes) for axes in AXES), *(("transformer", axes) for axes in ("ekfac, model", "nonlinear"))]


@pytest.mark.parametrize(("network", "axes"), CASES)
def test_an_observed_step_comes_out_the_same_and_no_other_pays(network: str, axes: str) -> None:
    plain, other, counts = steps(network, set(), **AXES[axes])
    model, optimizer, watched = steps(network, {3}, **AXES[axes])
    assert same(snapshot(model, optimizer), snapshot(plain, other))
    assert [n == m for n, m in zip(counts, watched, strict=True)] == [True, True, False, True, True]
    assert watched[2] > counts[2]
    assert optimizer.tally == other.tally
    assert optimizer.diagnostics()["observed step"] == 3


def test_steps_that_nobody_asked_for_do_not_come_near(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("an unobserved step was looked into")

    for name in ("conditions", "norm", "Watch", "Stopwatch", "backward_pass"):
        monkeypatch.setattr(observing, name, refuse)
    model = mlp()
    optimizer = OCNOpt(model)
    train(model, optimizer, 3)
    assert not any("/" in name or "time" in name for name in optimizer.diagnostics())


def test_what_does_nothing_asks_torch_for_nothing() -> None:
    with Counting() as counting:
        blind = observing.BLIND
        with blind.timing(), blind.phase("x"), blind.moving([]):
            blind.gains(None)  # type: ignore[arg-type]
            blind.proposed(None, [], [], [])  # type: ignore[arg-type]
        assert blind.figures() == {}
    assert counting.count == 0


def test_figures_stay_under_the_number_of_their_step() -> None:
    model = mlp()
    optimizer = OCNOpt(model)
    train(model, optimizer, 2)
    optimizer.observe()
    assert "observed step" not in optimizer.diagnostics()
    train(model, optimizer, range(2, 4))
    first = optimizer.diagnostics()
    assert (first["observed step"], first["step"]) == (3, 4)
    train(model, optimizer, range(4, 6))
    later = optimizer.diagnostics()
    assert all(later[name] == x for name, x in first.items() if "/" in name or "time" in name)
    assert (later["observed step"], later["step"]) == (3, 6)
    optimizer.observe()
    train(model, optimizer, range(6, 7))
    last = optimizer.diagnostics()
    assert last["observed step"] == last["step"] == 7
    assert last["0/update"] != first["0/update"]


@pytest.mark.filterwarnings("ignore:OCNOpt skipped")
def test_a_skipped_step_is_not_the_observed_one() -> None:
    model = mlp()
    optimizer = OCNOpt(model)
    optimizer.observe()
    x, y = batch(0)
    one_step(model, optimizer, x * torch.nan, y)
    assert "observed step" not in optimizer.diagnostics()
    one_step(model, optimizer, x, y)
    assert optimizer.diagnostics()["observed step"] == 1


def test_a_step_in_which_everything_rests_is_not_the_observed_one() -> None:
    model = mlp()
    optimizer = OCNOpt(model, params=[{"params": model.parameters(), "period": 2}])
    optimizer.observe()
    train(model, optimizer, 2)
    assert optimizer.diagnostics()["observed step"] == 2


@pytest.mark.parametrize("axes", ["sgd, fixed", "ekfac, model", "coupled", "no feedback", "levenberg-marquardt"])
def test_layers_and_quantities(axes: str) -> None:
    """Every layer that moved, all numbers finite, shares of the time that sum to one."""
    _, optimizer, _ = steps("transformer", {4}, **AXES[axes])
    numbers = optimizer.diagnostics()
    assert all(isinstance(x, int | float) and math.isfinite(x) for x in numbers.values())
    moved = {seat.name for seat in optimizer.seats}
    told = {key.rpartition("/")[0] for key in numbers if "/" in key}
    assert told == moved and "(model)" in told
    assert all(f"{path}/update" in numbers for path in moved)
    shares = {name: x for name, x in numbers.items() if name.startswith("time in")}
    assert sum(shares.values()) == pytest.approx(1.0) and min(shares.values()) >= 0
    assert numbers["step seconds"] > 0
    playing = any(row.feedback for row in optimizer.coverage())
    assert ("time in backward pass" in shares) == (playing and AXES[axes].get("feedback") != 0.0)
    assert ("time in closure" in shares) == (axes in ("levenberg-marquardt", "backtracking"))


def test_time_is_counted_once_and_without_the_observer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 3.0, 6.0, 10.0, 15.0, 21.0, 28.0, 36.0])
    monkeypatch.setattr(observing.time, "perf_counter", lambda: next(now))
    watch = observing.Stopwatch()
    watch.start()  # at 1
    with watch.phase("outer"):  # at 3
        with watch.phase("inner"):  # at 6 and 10
            pass
        with watch.phase(observing.OBSERVING):  # at 15 and 21
            pass
    watch.switch(observing.REST)  # left at 28, read at 36
    spent = {"the rest": 2.0 + 8.0, "outer": 3.0 + 5.0 + 7.0, "inner": 4.0}
    assert watch.shares() == {**{f"time in {name}": x / 29.0 for name, x in spent.items()}, "step seconds": 29.0}


def test_phases_end_where_an_error_does() -> None:
    watch = observing.Stopwatch()
    with pytest.raises(KeyError), watch.phase("outer"):
        raise KeyError
    assert watch.name == observing.REST


def test_members_of_a_coalition_have_figures_of_their_own() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head((self.a(x).tanh() + self.b(x)).tanh())

    torch.manual_seed(0)
    model = Fork().double()
    blocks = [Block("fork", "parallel", (("a",), ("b",)))]
    optimizer = OCNOpt(model, game="cooperative", alignment="first", blocks=blocks)
    train(model, optimizer, 3)
    optimizer.observe()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, optimizer, range(3, 4))
    numbers = optimizer.diagnostics()
    assert {row.shares for row in optimizer.coverage() if row.parameter == "a.weight"} == {"a + b"}
    assert numbers["a/shrink"] == numbers["b/shrink"]
    assert numbers["a/open loop"] != numbers["b/open loop"]
    moved = math.hypot(
        *(float((model.a.get_parameter(n) - before[f"a.{n}"]).detach().norm()) for n in ("weight", "bias"))
    )
    assert numbers["a/update"] == pytest.approx(moved, rel=1e-9)


def test_fallbacks_are_counted_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(A: Tensor, tally: Tally) -> tuple[Tensor, Tensor]:
        if A.shape[-1] == 7:  # the input side of the second linear layer of the three
            raise DecompositionError("no")
        return eigh(A, tally)

    monkeypatch.setattr(decompositions, "eigh", failing)
    model = mlp()
    optimizer = OCNOpt(model)
    train(model, optimizer, 3)
    numbers = optimizer.diagnostics()
    assert numbers["decomposition failed"] == numbers["3/decomposition failed"] == 3
    assert "0/decomposition failed" not in numbers


def test_refused_tries_and_rejected_steps_are_counted() -> None:
    """Undamped steps from random weights go too far."""
    model = mlp()
    x, y = batch(0)
    search = LevenbergMarquardt(start=1e-8, tries=2)
    optimizer = OCNOpt(model, curvature="sgd", value="coupled", terminal="true-vs-rest", search=search)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    optimizer.observe()
    optimizer.step(closure)
    numbers = optimizer.diagnostics()
    assert optimizer.last_step is not None and not optimizer.last_step.accepted
    assert (numbers["accepted"], numbers["tries refused"], numbers["steps rejected"]) == (0.0, 2, 1)
    assert numbers["0/update"] == 0.0 and numbers["0/open loop"] > 0


def test_copies_begin_unobserved() -> None:
    model = mlp()
    optimizer = OCNOpt(model)
    optimizer.observe()
    train(model, optimizer, 1)
    optimizer.observe()
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert copied.watch is observing.BLIND
        assert "observed step" not in copied.diagnostics()


def test_build_and_watch_low_precision() -> None:
    model = mlp(torch.bfloat16)
    optimizer = build(model, "ekfac", "model")
    optimizer.observe()
    train(model, optimizer, 1)
    assert optimizer.diagnostics()["0/update to weight"] > 0
