"""The bandit: every intermediate against a slow twin, regret against the bound, and a state that goes on as before."""

from __future__ import annotations

import io
import math
import random
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytest import MonkeyPatch

sys.path.insert(0, str(Path(__file__).parents[1] / "oracles"))

from bandits import UCB1, Exp31, Rewards, SlowExp3pp, against_ucb1, bernoulli, switching

from ocnopt.game import bandit as module
from ocnopt.game.bandit import Bandit, Exp3pp

CASES = [(2, 1 / 32), (5, 1 / 32), (3, 1.0), (5, 18.0)]
"""Arms and c."""


def fast(bandit: Bandit) -> dict[str, list[float]]:
    """What the bandit computes on its way to the coming draw, by its name in the paper."""
    L, t, options = bandit.losses, len(bandit.log) + 1, bandit.options
    gaps = module.gaps(L, t - 1)
    return {
        "L": L,
        "β": [module.rate(bandit.arms, t)],
        "Δ": gaps,
        "ξ": [options.xi(gap, t) for gap in gaps],
        "ε": options.exploration(L, t),
        "ρ": module.softmin(L, module.rate(bandit.arms, t)),
        "ρ̃": bandit.probabilities(),
    }


def slow(twin: SlowExp3pp) -> dict[str, list[float]]:
    t = len(twin.history) + 1
    return {
        "L": [twin.L(a, t - 1) for a in range(twin.arms)],
        "β": [twin.beta(t)],
        "Δ": twin.gaps(t - 1),
        "ξ": twin.xi(t),
        "ε": twin.epsilon(t),
        "ρ": twin.rho(t),
        "ρ̃": twin.chances(t),
    }


def agree(x: list[float], y: list[float]) -> bool:
    return all(math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12) for a, b in zip(x, y, strict=True))


def differences(arms: int, c: float, rounds: int = 120) -> set[str]:
    """Names of all that differs anywhere between the bandit and its slow twin, which plays along."""
    bandit, twin, source = Bandit(arms, seed=3, options=Exp3pp(c)), SlowExp3pp(arms, c), random.Random(5)
    wrong: set[str] = set()
    for _ in range(rounds):
        mine, its = fast(bandit), slow(twin)
        wrong |= {name for name in its if not agree(mine[name], its[name])}
        arm = bandit.draw()
        value = min(1.0, max(0.0, arm / (arms - 1) + source.uniform(-0.2, 0.2)))
        bandit.reward(value)
        twin.observe(arm, 1 - value)
    return wrong


@pytest.mark.parametrize("arms, c", CASES)
def test_every_intermediate_is_the_papers(arms: int, c: float) -> None:
    assert not differences(arms, c)


@pytest.mark.parametrize("arms, c", CASES[:2])
def test_every_term_of_the_exploration_is_met(arms: int, c: float) -> None:
    """Else the comparison would say nothing of it: in some round each term of the minimum is the least."""
    bandit, met = Bandit(arms, seed=3), set()
    for t in range(1, 121):
        for x, e in zip(fast(bandit)["ξ"], fast(bandit)["ε"], strict=True):
            met |= {name for name, term in {"K": 0.5 / arms, "β": module.rate(arms, t), "ξ": x}.items() if term == e}
        bandit.reward(bandit.draw() / (arms - 1))
    assert met == {"K", "β", "ξ"}


@dataclass(frozen=True)
class Mutation:
    """owner.name becomes ``new``; ``new`` is built from what stood there."""

    what: str
    owner: Any
    name: str
    new: Callable[[Any], Any]


def xi(formula: Callable[[float, float, int], float]) -> Callable[[Any], Any]:
    return lambda real: lambda self, gap, t: formula(self.c, gap, t) if gap > 0 else math.inf


MUTATIONS = [
    Mutation("losses are not weighted", module, "weighted", lambda real: lambda loss, chance: loss),
    Mutation("losses are weighted by ρ̃²", module, "weighted", lambda real: lambda loss, chance: loss / chance**2),
    Mutation("rewards are taken for losses", module, "weighted", lambda real: lambda loss, p: real(1 - loss, p)),
    Mutation("no ε", Exp3pp, "exploration", lambda real: lambda self, losses, t: [0.0] * len(losses)),
    Mutation("ε one round late", Exp3pp, "exploration", lambda real: lambda self, L, t: real(self, L, max(t - 1, 1))),
    Mutation("ξ without c", Exp3pp, "xi", xi(lambda c, gap, t: math.log(t) ** 2 / (t * gap**2))),
    Mutation("ln t once", Exp3pp, "xi", xi(lambda c, gap, t: c * math.log(t) / (t * gap**2))),
    Mutation("Δ̂ not squared", Exp3pp, "xi", xi(lambda c, gap, t: c * math.log(t) ** 2 / (t * gap))),
    Mutation("ξ without 1/t", Exp3pp, "xi", xi(lambda c, gap, t: c * math.log(t) ** 2 / gap**2)),
    Mutation("Δ̂ not divided by the round", module, "gaps", lambda real: lambda losses, t: real(losses, 1)),
    Mutation("Δ̂ divided by t", module, "gaps", lambda real: lambda losses, t: real(losses, t + 1)),
    Mutation("Δ̂ may exceed 1", module, "gaps", lambda real: lambda L, t: [(x - min(L)) / max(t, 1) for x in L]),
    Mutation("√(ln K/(tK)) without ½", module, "rate", lambda real: lambda arms, t: 2 * real(arms, t)),
    Mutation("a rate that does not fall", module, "rate", lambda real: lambda arms, t: real(arms, 1)),
    Mutation("ρ by the largest loss", module, "softmin", lambda real: lambda losses, eta: real(losses, -eta)),
]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.what for mutation in MUTATIONS])
def test_the_twin_notices(mutation: Mutation, monkeypatch: MonkeyPatch) -> None:
    """Each in the chances themselves, and not only in the intermediate that was broken."""
    monkeypatch.setattr(mutation.owner, mutation.name, mutation.new(getattr(mutation.owner, mutation.name)))
    assert "ρ̃" in differences(5, 1 / 32)


def bound(arms: int, rounds: int) -> float:
    """Theorem 1: 4 √(K t ln K)."""
    return 4 * math.sqrt(arms * rounds * math.log(arms))


def regret(player: Any, table: Rewards) -> float:
    """What the best single arm would have earned more."""
    earned = 0.0
    for row in table:
        value = row[player.draw()]
        player.reward(value)
        earned += value
    return max(map(sum, zip(*table, strict=True))) - earned


def mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)


@pytest.mark.parametrize("means", [[0.8, 0.5, 0.5], [0.5, 0.5, 0.9, 0.5]])
def test_random_arms_cost_little(means: list[float]) -> None:
    """Far less than the adversarial bound, and less than Exp3.1."""
    tables = {seed: bernoulli(means, 2000, seed) for seed in range(6)}
    ours = mean([regret(Bandit(len(means), seed), table) for seed, table in tables.items()])
    exp3 = mean([regret(Exp31(len(means), seed), table) for seed, table in tables.items()])
    assert ours < 0.4 * bound(len(means), 2000)
    assert ours < 0.7 * exp3


def test_random_arms_cost_less_and_less() -> None:
    """Regret per round falls faster than the bound's: EXP3++ finds the arm."""
    early, late = ([regret(Bandit(2, seed), bernoulli([0.9, 0.4], T, seed)) for seed in range(8)] for T in (500, 4000))
    assert mean(late) / mean(early) < 0.75 * bound(2, 4000) / bound(2, 500)


@pytest.mark.parametrize("arms", [2, 3])
@pytest.mark.parametrize("lengths", [[300] * 5, [700, 1300]], ids=str)
def test_arms_that_switch(lengths: list[int], arms: int) -> None:
    table = switching(lengths, arms)
    assert mean([regret(Bandit(arms, seed), table) for seed in range(12)]) < bound(arms, len(table))


@pytest.mark.parametrize("arms", [2, 3])
def test_arms_that_defeat_ucb1(arms: int) -> None:
    """UCB1 earns nothing at all, and so loses to the best arm in proportion to the rounds."""
    table = against_ucb1(arms, 800)
    assert regret(UCB1(arms), table) >= 800 * (1 - 1 / arms) > bound(arms, 800)
    assert max(regret(Bandit(arms, seed), table) for seed in range(5)) < 0.5 * bound(arms, 800)


def play(bandit: Bandit, rounds: int) -> Bandit:
    """Play on; what an arm pays depends on the round alone, and every fifth draw gets nothing."""
    for _ in range(rounds):
        arm = bandit.draw()
        if bandit.draws % 5:
            bandit.reward((arm + bandit.draws) % 3 / 2)
    return bandit


def test_a_seed_repeats_and_another_does_not() -> None:
    assert play(Bandit(4, seed=1), 100) == play(Bandit(4, seed=1), 100)
    assert play(Bandit(4, seed=1), 100).log != play(Bandit(4, seed=2), 100).log


def test_other_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state()
    play(Bandit(4), 10)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("losses", [[0.0, 0.0, 0.0], [4.0, 0.0, 1.0]], ids=str)
def test_draws_follow_the_chances(losses: list[float]) -> None:
    """Also two in a row: seeds that follow one another must not show."""
    bandit = Bandit(3)
    bandit.losses = losses
    p, pairs = bandit.probabilities(), Counter(pairwise(bandit.draw() for _ in range(8000)))
    for a, b in product(range(3), repeat=2):
        expected = 8000 * p[a] * p[b]
        assert abs(pairs[a, b] - expected) < 4 * math.sqrt(expected)


@pytest.mark.parametrize("rounds", [0, 1, 64, 65], ids="{} rounds".format)
def test_a_saved_state_goes_on_bit_for_bit(rounds: int) -> None:
    """After 65 rounds an arm waits for its reward."""
    first = play(Bandit(3, seed=7), rounds)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    buffer.seek(0)
    second = Bandit(3, seed=7)
    second.load_state_dict(torch.load(buffer, weights_only=True))
    if first.pending:
        first.reward(0.5)
        second.reward(0.5)
    assert second == first
    assert play(second, 50) == play(first, 50)


def test_a_state_is_plain_and_a_copy() -> None:
    bandit = play(Bandit(3), 20)
    state = bandit.state_dict()
    assert plain(list(state.values()))
    other = Bandit(3)
    other.load_state_dict(state)
    saved = bandit.state_dict()
    play(other, 20)
    play(bandit, 20)
    assert state == saved


def plain(value: Any) -> bool:
    """A number, or a list of plain values."""
    return all(map(plain, value)) if type(value) is list else type(value) in (int, float)


def test_the_log_tells_what_was_rewarded() -> None:
    bandit = Bandit(3)
    arms = [bandit.draw() for _ in range(2)]
    bandit.reward(0.25)
    arms.append(bandit.draw())
    bandit.reward(torch.tensor(1.0))  # type: ignore[arg-type]
    assert bandit.log == [(2, arms[1], 0.25), (3, arms[2], 1.0)]


def test_a_draw_without_a_reward_counts_for_nothing() -> None:
    bandit = Bandit(3)
    before = bandit.probabilities()
    arms = {bandit.draw() for _ in range(20)}
    assert bandit.probabilities() == before and not bandit.log
    assert arms == {0, 1, 2}


def test_one_arm() -> None:
    bandit = Bandit(1)
    for _ in range(20):
        assert bandit.draw() == 0
        bandit.reward(0.5)
    assert bandit.probabilities() == [1.0]


@given(arms=st.integers(1, 6), c=st.floats(1e-3, 1e3), values=st.lists(st.floats(0, 1), max_size=40))
@settings(max_examples=60, deadline=None)
def test_chances_of_any_history(arms: int, c: float, values: list[float]) -> None:
    bandit = Bandit(arms, options=Exp3pp(c))
    for value in values:
        bandit.draw()
        bandit.reward(value)
        require_chances(bandit.options, bandit.losses, len(bandit.log) + 1)


@given(c=st.floats(1e-3, 1e3), t=st.integers(1, 10**9), losses=st.lists(st.floats(0, 1e12), min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_chances_of_any_losses(c: float, t: int, losses: list[float]) -> None:
    require_chances(Exp3pp(c), losses, t)


def require_chances(options: Exp3pp, losses: list[float], t: int) -> None:
    """They sum to one, and none is below its ε, which for several arms is positive from the second round on."""
    chances, epsilon = options.chances(losses, t), options.exploration(losses, t)
    assert math.isclose(sum(chances), 1.0, rel_tol=1e-12)
    assert all(p >= e >= 0 for p, e in zip(chances, epsilon, strict=True))
    assert sum(epsilon) <= 0.5
    assert len(losses) == 1 or t == 1 or min(epsilon) > 0


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf, -math.inf])
def test_a_reward_out_of_range(value: float) -> None:
    bandit = Bandit(2)
    arm = bandit.draw()
    with pytest.raises(ValueError, match=r"reward\(.*\) must lie in \[0, 1\]"):
        bandit.reward(value)
    bandit.reward(0.5)
    assert bandit.log == [(1, arm, 0.5)]


def test_a_reward_that_nothing_waits_for() -> None:
    bandit = Bandit(2)
    with pytest.raises(RuntimeError, match="draw"):
        bandit.reward(0.5)
    bandit.draw()
    bandit.reward(0.5)
    with pytest.raises(RuntimeError, match="once"):
        bandit.reward(0.5)


def test_a_state_of_another_number_of_arms() -> None:
    with pytest.raises(ValueError, match="The state has 3 arms and the bandit 2"):
        Bandit(2).load_state_dict(Bandit(3).state_dict())


@pytest.mark.parametrize("c", [0.0, -1.0, math.nan, math.inf])
def test_c_must_be_positive(c: float) -> None:
    with pytest.raises(ValueError, match=r"Exp3pp\(c=.*\) must be a positive number"):
        Exp3pp(c)


def test_arms_must_be_there() -> None:
    with pytest.raises(ValueError, match="at least one arm"):
        Bandit(0)
