"""Q_θ, k, a, C, e and δθ of every layer against the dense recursions of DESIGN, section 2."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
from engine import Case, check, close
from nets import EXACT, make

from ocnopt import OCNOpt, solving
from ocnopt.core.bellman import Pace, Problem, backward_pass
from ocnopt.core.search import Model
from ocnopt.core.terminal import Fisher, Gradient
from ocnopt.curvature import EKFAC, KFAC, SGD, Adam, RMSprop

CURVATURES = {
    "identity": SGD(),
    "rmsprop": RMSprop(),
    "adam": Adam(),
    "kfac": KFAC(fisher="given"),
    "ekfac": EKFAC(fisher="given"),
    "kfac, diagonal factors": KFAC(fisher="given", max_factor=6, max_blocks=0),
    "kfac, blocks": KFAC(fisher="given", max_factor=3),
    "ekfac, diagonal factors": EKFAC(fisher="given", max_factor=6, max_blocks=0),
    "ekfac, blocks": EKFAC(fisher="given", max_factor=3),
    "ekfac, blocks and diagonals": EKFAC(fisher="given", max_factor=4, block_size=3, max_blocks=2),
    "ekfac, wide layers": EKFAC(fisher="given", whole=6),
}
TERMINALS = {
    "gradient": Gradient(0.3),
    "true-vs-rest": "true-vs-rest",
    "gauss-newton": "gauss-newton",
    "fisher": Fisher(2),
}
RANK_ONE = ("gradient", "true-vs-rest")


def case_of(net: str, curvature: str, value: str, terminal: str) -> Case:
    lr = 0.01 if curvature in ("rmsprop", "adam") else 0.4
    return Case(net=net, curvature=CURVATURES[curvature], value=value, terminal=TERMINALS[terminal], lr=lr)


@pytest.mark.parametrize("terminal", TERMINALS)
@pytest.mark.parametrize("value", ["per-sample", "coupled", "own-gains"])
@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("net", EXACT)
def test_equals_the_dense_recursion(net: str, curvature: str, value: str, terminal: str) -> None:
    case = case_of(net, curvature, value, terminal)
    if value == "own-gains" and terminal not in RANK_ONE:
        with pytest.raises(ValueError, match="rank 1"):
            check(case)
        return
    check(case)


VARIANTS = {
    "a previous step and a pace": {"moving": True, "pace": Pace(0.7, 0.4)},
    "saturation": {"saturation": 0.05},
    "saturation and a previous step": {"saturation": 0.05, "moving": True, "pace": Pace(0.7, 0.4)},
    "some of the feedback": {"feedback": 0.3},
    "squared error": {"loss": "mse"},
    "logistic loss": {"loss": "bce"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("value", ["per-sample", "coupled"])
@pytest.mark.parametrize("terminal", ["true-vs-rest", "gauss-newton"])
@pytest.mark.parametrize("curvature", ["identity", "kfac", "ekfac"])
def test_variants(curvature: str, terminal: str, value: str, variant: str) -> None:
    options = VARIANTS[variant]
    if options.get("loss") and terminal == "true-vs-rest":
        terminal = "gradient"
    for net in ("conv", "shared"):
        check(replace(case_of(net, curvature, value, terminal), **options))


@pytest.mark.parametrize("value", ["per-sample", "own-gains", "coupled"])
def test_l2_decay_is_in_the_control_gradient(value: str) -> None:
    check(Case(value=value, weight_decay=0.1))


@pytest.mark.parametrize("value", ["per-sample", "coupled"])
@pytest.mark.parametrize("net", ["chain", "shared", "mixed"])
def test_part_of_the_batch_stands_for_all_of_it(net: str, value: str) -> None:
    check(Case(net=net, value=value, samples=3))


@pytest.mark.parametrize("value", ["per-sample", "coupled"])
@pytest.mark.parametrize("curvature", ["identity", "kfac", "ekfac"])
@pytest.mark.parametrize("net", ["chain", "shared", "mixed"])
def test_a_batch_in_parts_is_the_batch(net: str, curvature: str, value: str) -> None:
    """Gradients and calls of two sweeps add up. Mutation caught: samples counted once for every call of a layer."""
    check(replace(case_of(net, curvature, value, "true-vs-rest"), sweeps=2))


@pytest.mark.parametrize("search", ["fixed", Model(shrinkage=0.0)], ids=["fixed", "model"])
def test_previous_step_and_pace_are_those_the_parameters_took(search: str | Model) -> None:
    """What momentum will add to the coming step, pace.ball · previous, in terms of the step that was taken."""
    task, problems = make("chain"), []
    optimizer = OCNOpt(task.net, curvature=CURVATURES["kfac"], search=search, lr=0.3, momentum=0.8)

    def watched(problem: Problem) -> list:
        previous = [x.clone() for stage in problem.stages for x in stage.previous or ()]  # it will be averaged in place
        problems.append((problem.pace, previous))
        return backward_pass(problem)

    places = [[p.detach().clone() for p in task.net.parameters()]]
    with mock.patch.object(solving, "backward_pass", watched):
        for _ in range(3):
            optimizer.zero_grad()
            clock = dict(optimizer.diagnostics())
            optimizer.backward(*task.evaluate())
            optimizer.step()
            places.append([p.detach().clone() for p in task.net.parameters()])
    fresh, ball = (1.0, 0.8) if search == "fixed" else (0.3 * clock["length"], clock["momentum"])
    pace, previous = problems[-1]
    assert pace.fresh == pytest.approx(fresh)
    found = [pace.ball * x for x in previous]
    for u, now, before in zip(found, places[2], places[1], strict=True):
        close(u, ball * (now - before), "momentum's part of the step")
