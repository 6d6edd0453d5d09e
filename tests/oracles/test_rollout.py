"""The nonlinear roll-out against its definition, and against the linear one for small steps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import pytest
import rollout as oracle
import torch
from rollout_nets import NETS, make
from torch import Tensor, nn
from torch.nn import functional as F

from ocnopt import OCNOpt
from ocnopt.core import record as recording
from ocnopt.core import rollout as library
from ocnopt.core.arrivals import Mode
from ocnopt.core.bellman import Gain, Pace, Problem
from ocnopt.core.policy import Step, forward_pass
from ocnopt.curvature import EKFAC, SGD, Curvature

TOLERANCE = 1e-10


@dataclass(frozen=True)
class Case:
    """pace and moving: how much of the step and of a random previous one is taken.  samples: seen by the feedback."""

    net: str = "chain"
    curvature: Curvature = field(default_factory=SGD)
    value: str = "per-sample"
    terminal: str = "true-vs-rest"
    pace: Pace = field(default_factory=Pace)
    moving: bool = False
    samples: int | None = None


class Spy:
    """Stands in front of the optimizer's roll-out and keeps what went through."""

    def __init__(self, inner: library.Nonlinear, case: Case) -> None:
        self.inner, self.case = inner, case
        self.runs: list[tuple[Problem, Sequence[Gain], list[Step]]] = []

    def steps(self, problem: Problem, gains: Sequence[Gain]) -> list[Step]:
        problem = replace(problem, pace=self.case.pace)
        if self.case.moving:
            for gain in gains:
                gain.stage.previous = previous(gain)
                gain.carried = gain.stage.resp(gain.stage.previous)
        self.runs.append((problem, gains, self.inner.steps(problem, gains)))
        return self.runs[-1][-1]

    def clear(self) -> None:
        self.inner.clear()


def previous(gain: Gain) -> tuple[Tensor, ...]:
    draws = torch.Generator().manual_seed(7)
    return tuple(0.3 * torch.randn(k.shape, generator=draws, dtype=k.dtype) for k in gain.k)


def optimizer_of(case: Case, net: nn.Module) -> OCNOpt:
    return OCNOpt(
        net,
        lr=0.4,
        curvature=case.curvature,
        terminal=case.terminal,
        value=case.value,
        rollout="nonlinear",
        search="fixed",
        saturation=None,
        feedback_samples=case.samples,
    )


def run(case: Case, optimizer: OCNOpt, net: nn.Module, x: Tensor, y: Tensor) -> tuple[Any, Tensor, Tensor]:
    """(problem, gains, steps) of the library, generator state at the forward pass, columns at the output."""
    spy = optimizer.rollout = Spy(optimizer.rollout, case)
    rng = torch.get_rng_state()
    output, sent = net(x), []
    output.register_hook(lambda u: sent.append(u) if optimizer.capture.mode is Mode.COLUMN else None)
    optimizer.backward(F.cross_entropy(output, y), output)
    v = torch.func.grad(F.cross_entropy)(output.detach(), y)
    optimizer.step()
    return spy.runs[0], rng, torch.stack(sent or [v])


def gain_of(gain: Gain) -> oracle.Gain:
    """The same with everything flat."""
    shapes = {str(j): k for j, k in enumerate(gain.k)}

    def solve(d: Tensor) -> Tensor:
        return oracle.flat(gain.stage.solve(tuple(oracle.unflat(d, shapes).values())))

    ball = None if gain.stage.previous is None else oracle.flat(gain.stage.previous)
    return oracle.Gain(oracle.flat(gain.k), gain.C, solve, gain.stage.metric.contains_own_block, ball)


def check(case: Case) -> None:
    """AssertionError unless every δθ of the library is that of the definition."""
    net, x, y = make(case.net)
    untouched = make(case.net)[0]
    optimizer = optimizer_of(case, net)
    (problem, gains, steps), rng, columns = run(case, optimizer, net, x, y)
    assert not [name for name in optimizer.tally if name.startswith("nonlinear")]
    weight = problem.stages[0].samples.weight
    weight = x.new_ones(problem.stages[0].samples.count) if weight is None else weight
    old = oracle.traced(untouched, x, rng, columns)
    given = {gain.stage.label: gain_of(gain) for gain in gains}
    expected = oracle.nonlinear(old, given, case.pace.fresh, case.pace.ball, weight)
    for gain, step in zip(gains, steps, strict=True):
        close(oracle.flat(step.step), expected[gain.stage.label].detach(), f"δθ of {gain.stage.label}")
        close(step.response, gain.stage.resp(step.step), "response")
        if case.moving:
            close(step.carried, gain.stage.resp(gain.stage.previous), "carried")


def close(actual: Tensor, expected: Tensor, what: str) -> None:
    assert actual.shape == expected.shape and actual.dtype == expected.dtype == torch.float64, what
    error, size = float((actual - expected).norm()), float(expected.norm())
    assert error <= TOLERANCE * size, f"{what}: error {error:.2e} at size {size:.2e}"


CURVATURES = {"identity": SGD(), "ekfac": EKFAC(fisher="given")}
MOVING = {"moving": True, "pace": Pace(0.7, 0.4)}


@pytest.mark.parametrize("terminal", ["true-vs-rest", "gauss-newton"])
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("net", NETS)
def test_equals_its_definition(net: str, curvature: str, terminal: str) -> None:
    check(Case(net, CURVATURES[curvature], terminal=terminal))


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("variant", [MOVING, {"value": "coupled"}, {"samples": 2}, {"samples": 2, **MOVING}], ids=str)
def test_variants(net: str, variant: dict[str, Any]) -> None:
    check(Case(net, **variant))
    check(Case(net, terminal="gauss-newton", **variant))


# mutations: what each term is there for


def without_linear_part(y: Any, z: Sequence[Tensor], Y: Any) -> list[None]:
    return [None] * len(z)


def at_new_parameters(visit: Any, old: Any, honest: Any = library.recomputed) -> Any:
    return honest(visit, {})


def without_momentum(self: Pace, response: Tensor, carried: Tensor | None) -> Tensor:
    return self.fresh * response


def standing(self: library.Replay, gain: Gain) -> None:
    """Players react but do not move."""
    self.steps[gain] = library.react(self.problem, gain, self.e)


def at_every_call(self: library.Replay, module: nn.Module, args: Any, kwargs: Any) -> None:
    """A shared player reacts anew at each of its calls, to what was done since."""
    before, self.steps = self.steps, {k: v for k, v in self.steps.items() if k is not self.gains.get(module)}
    BEFORE(self, module, args, kwargs)
    self.steps = {**before, **self.steps}


BEFORE = library.Replay.before

MUTATIONS = {
    "the linear part J(ẑ − z) is left out": (mock.patch.object(library, "pulled_back", without_linear_part), {}),
    "J and y at the new parameters": (mock.patch.object(library, "recomputed", at_new_parameters), {}),
    "players do not move in the second pass": (mock.patch.object(library.Replay, "move", standing), {}),
    "the previous step is left out": (mock.patch.object(Pace, "whole", without_momentum), MOVING),
}


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_catches(net: str, mutation: str) -> None:
    patch, options = MUTATIONS[mutation]
    with patch, pytest.raises(AssertionError, match="δθ"):
        check(Case(net, **options))


def test_catches_a_shared_player_that_moves_at_every_call() -> None:
    with mock.patch.object(library.Replay, "before", at_every_call), pytest.raises(AssertionError, match="δθ"):
        check(Case("shared"))


@pytest.mark.parametrize("place", [library, recording], ids=["in the derivative", "in the second pass"])
def test_catches_fresh_dropout_masks(place: Any) -> None:
    with mock.patch.object(place, "replayed", lambda rng: nullcontext()), pytest.raises(AssertionError, match="δθ"):
        check(Case("conv, norm, dropout"))


def test_catches_inputs_overwritten_in_place() -> None:
    """Without its copies the record would hold what an in-place activation made of its input."""
    intact = mock.patch.object(recording, "cloned", lambda tree: tree)
    versions = mock.patch.object(recording.Visit, "lost", False)
    with intact, versions, pytest.raises(AssertionError, match="δθ"):
        check(Case("residual"))


@pytest.fixture(params=["chain", "residual"])
def solved(request: Any) -> Iterator[tuple[OCNOpt, Problem, Sequence[Gain]]]:
    """An optimizer in the middle of a step, with its problem and gains."""
    net, x, y = make(request.param)
    found: list[Any] = []

    class Stop(Exception):
        pass

    class Stopped(Spy):
        def steps(self, problem: Problem, gains: Sequence[Gain]) -> list[Step]:
            found.extend([self.inner, problem, gains])
            raise Stop

        def clear(self) -> None:
            pass

    optimizer = optimizer_of(Case(), net)
    optimizer.rollout = Stopped(optimizer.rollout, Case())
    F.cross_entropy(net(x), y).backward()
    with pytest.raises(Stop):
        optimizer.step()
    yield found[0], found[1], found[2]


def test_differs_from_the_linear_rollout_in_second_order(solved: Any) -> None:
    """e of the two roll-outs differs by O(t²) where t of the step is taken.

    Not with shared players: at the second call of one, the linear roll-out has counted it already at the first.
    Nor behind batch statistics: there the nonlinear one sees what the other samples did to a sample.
    """
    nonlinear, problem, gains = solved
    apart = []
    for t in (0.02, 0.01, 0.005):
        scaled = replace(problem, pace=Pace(t, 0.0))
        with torch.no_grad():
            pairs = zip(nonlinear.steps(scaled, gains), forward_pass(scaled, gains), strict=True)
            apart.append(float(oracle.flat([oracle.flat(a.step) - oracle.flat(b.step) for a, b in pairs]).norm()))
    orders = [math.log2(a / b) for a, b in itertools.pairwise(apart)]
    assert all(abs(order - 2) < 0.1 for order in orders), (apart, orders)
