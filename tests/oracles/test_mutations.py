"""Each comparison is seen to fail: a term is taken out of the library, and the oracle must notice.

The table says what is removed, by which change, and on which case the comparison catches it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from engine import Case, check
from pytest import MonkeyPatch
from torch import Tensor

from ocnopt import gathering, solving
from ocnopt.core import bellman, gram, policy, value
from ocnopt.core.bellman import Pace, Saturation
from ocnopt.core.losses import SoftmaxCrossEntropy
from ocnopt.core.stage import Stage
from ocnopt.core.terminal import Gradient
from ocnopt.core.value import Backed, Coupled, OwnGains, PerSample
from ocnopt.curvature import EKFAC, KFAC, decompositions, factors
from ocnopt.curvature.metrics import KroneckerMetric
from ocnopt.players.base import MatrixModulePlayer

SHARED_OR_SPREAD = (Case(net="shared"), Case(net="shared", curvature=KFAC(fisher="given"), value="coupled"))
MOVING = Case(moving=True, pace=Pace(0.7, 0.4))
COUPLED = Case(value="coupled")
KRONECKER = Case(curvature=KFAC(fisher="given"))


@dataclass(frozen=True)
class Mutation:
    """owner.name becomes ``new``; ``new`` is built from what stood there."""

    what: str
    owner: Any
    name: str
    new: Callable[[Any], Any]
    cases: tuple[Case, ...] = (Case(), COUPLED)


def constant(result: Any) -> Callable[[Any], Any]:
    return lambda real: result


def old_C_in_policy(real: Any) -> Any:
    return lambda self, stage, C, a, response: real(self, stage, C, a, response)._replace(policy_C=C)


def old_C_in_a(real: Any) -> Any:
    def backward(self: Any, stage: Stage, C: Tensor, a: Tensor, response: Tensor) -> Backed:
        return real(self, stage, C, a, response)._replace(a=a + self.weigh(C, response))

    return backward


def last_lost(real: Any) -> Any:
    """Products per sample without the last sample's."""
    return lambda self: tuple(torch.cat([p[:, :-1], 0 * p[:, -1:]], dim=1) for p in real(self))


def squares_added(real: Any) -> Any:
    """Calls and positions laid side by side where they must be summed first."""

    def products(rows: Any, D: Tensor | None, chunk: int) -> Any:
        assert D is None or len(D.unique()) == 1
        X = [torch.einsum("rgnpo,gnpi->rgnpoi", U, Z).flatten(3, 4) for Z, U in rows]
        yield torch.cat(X, dim=3) * (1.0 if D is None else D.flatten()[0].sqrt())

    return products


def no_cross_terms(real: Any) -> Any:
    def coupled_gram(stage: Stage) -> Tensor:
        return torch.block_diag(*value.sample_gram(stage))

    return coupled_gram


def first_call_only(real: Any) -> Any:
    return lambda calls: list(calls[:1])


def no_ones(real: Any) -> Any:
    return lambda self, call: 0 * real(self, call)


def times(factor: float) -> Callable[[Any], Any]:
    return lambda real: lambda *args: real(*args) * factor


MUTATIONS = [
    Mutation("the previous step is not counted", Pace, "whole", constant(lambda self, r, c: self.fresh * r), (MOVING,)),
    Mutation("the pace of the fresh step", Pace, "whole", constant(lambda self, r, c: r + self.ball * c), (MOVING,)),
    Mutation("C does not shrink", value, "shrink", constant(lambda C, G: C)),
    Mutation("C shrinks by C − CGC", value, "shrink", constant(lambda C, G: C - C @ G @ C)),
    Mutation("pull(Y a) in Q_θ", bellman, "plus", constant(lambda x, y: x), (Case(), COUPLED, KRONECKER)),
    Mutation("the policy uses the old C", PerSample, "backward", old_C_in_policy, (Case(),)),
    Mutation("the policy uses the old C, coupled", Coupled, "backward", old_C_in_policy, (COUPLED,)),
    Mutation("a uses the old C", PerSample, "backward", old_C_in_a, (Case(),)),
    Mutation("a uses the old C, coupled", Coupled, "backward", old_C_in_a, (COUPLED,)),
    Mutation("resp(Y, k) in the deviation", PerSample, "deviation", constant(lambda self, s, e, r: e), (Case(),)),
    Mutation(
        "resp(Y, k) in the deviation, coupled", Coupled, "deviation", constant(lambda self, s, e, r: e), (COUPLED,)
    ),
    Mutation("e forgets the layers before the last one", policy, "accumulated", constant(lambda e, r: r)),
    Mutation("no reaction at all", policy, "policy_of", constant(lambda *args: None)),
    Mutation("1/B in C", SoftmaxCrossEntropy, "core", times(1 / 4)),
    Mutation(
        "B in the gradient factor",
        Gradient,
        "core",
        constant(lambda self, *a: (self.beta, "")),
        (Case(terminal=Gradient(0.3)),),
    ),
    Mutation("squares are added over positions and calls", gram, "products", squares_added, SHARED_OR_SPREAD),
    Mutation("a sample's product is lost", Stage, "sample_products", last_lost, (Case(net="conv"),)),
    Mutation("cross-sample terms of the coupled G", value, "coupled_gram", no_cross_terms, (COUPLED,)),
    Mutation("the second call of a shared layer", gathering, "merged", first_call_only, (Case(net="shared"),)),
    Mutation("the bias in G", MatrixModulePlayer, "_ones", no_ones),
    Mutation("the layers' order", gathering.Turn, "order", lambda real: property(lambda turn: -real.fget(turn))),
    Mutation("the own block is paid twice", KroneckerMetric, "contains_own_block", constant(False), (KRONECKER,)),
    Mutation("the control limits", Saturation, "hold", constant(lambda self, c: c), (Case(saturation=0.05),)),
    Mutation(
        "limits on a and c together",
        policy,
        "held_beside",
        constant(lambda p, g, c: p.saturation.hold(c)),
        (Case(saturation=0.05),),
    ),
    Mutation("ℓ_θ in Q_θ", solving.Solver, "decay", constant(lambda self, turns: None), (Case(weight_decay=0.1),)),
    Mutation(
        "the weight of kept samples",
        gathering,
        "Samples",
        lambda real: lambda rows, weight: real(rows),
        (Case(samples=3),),
    ),
    Mutation(
        "the own gain of a sample", OwnGains, "backward", constant(PerSample.backward), (Case(value="own-gains"),)
    ),
    Mutation(
        "π in the damping",
        decompositions,
        "pi_factor",
        constant(lambda A, B: torch.ones_like(A[:, :1, :1])),
        (KRONECKER,),
    ),
    Mutation(
        "B·v vᵀ in the factor",
        factors,
        "curvature_columns",
        constant(lambda call, batch: (call.Y, 1.0)),
        (KRONECKER, replace(KRONECKER, curvature=EKFAC(fisher="given"))),
    ),
]
COMPARISONS = [(mutation, case) for mutation in MUTATIONS for case in mutation.cases]


def name_of(mutation: Mutation, case: Case) -> str:
    return f"{mutation.what} ({case.net}, {case.value})"


@pytest.mark.parametrize("mutation, case", COMPARISONS, ids=[name_of(*pair) for pair in COMPARISONS])
def test_the_oracle_notices(mutation: Mutation, case: Case, monkeypatch: MonkeyPatch) -> None:
    check(case)
    monkeypatch.setattr(mutation.owner, mutation.name, mutation.new(getattr(mutation.owner, mutation.name)))
    with pytest.raises(AssertionError):
        check(case)
