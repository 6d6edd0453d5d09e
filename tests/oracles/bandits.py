"""Slow, obvious bandits: EXP3++ with every sum taken anew over the whole history, and the two that it is to join.

They follow the protocol of ``ocnopt.game.bandit.Bandit``: draw(), then reward() with a number in [0, 1].
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import NamedTuple


class Play(NamedTuple):
    chances: list[float]
    arm: int
    loss: float


@dataclass
class SlowExp3pp:
    """Seldin and Slivkins (ICML 2014), read line by line; it is told which arm was drawn."""

    arms: int
    c: float
    history: list[Play] = field(default_factory=list)

    def L(self, a: int, t: int) -> float:
        """L̃_t(a) = Σ_{s≤t} ℓ_s 1[A_s = a] / ρ̃_s(a)."""
        total = 0.0
        for play in self.history[:t]:
            if play.arm == a:
                total += play.loss / play.chances[a]
        return total

    def beta(self, t: int) -> float:
        return math.sqrt(math.log(self.arms) / (t * self.arms)) / 2

    def gaps(self, t: int) -> list[float]:
        """Δ̂_t; nothing is known of a gap before the first round."""
        if t == 0:
            return [0.0] * self.arms
        L = [self.L(a, t) for a in range(self.arms)]
        return [min(1.0, 1 / t * (L[a] - min(L))) for a in range(self.arms)]

    def xi(self, t: int) -> list[float]:
        gaps = self.gaps(t - 1)
        return [self.c * math.log(t) ** 2 / (t * gap**2) if gap != 0 else math.inf for gap in gaps]

    def epsilon(self, t: int) -> list[float]:
        return [min(1 / (2 * self.arms), self.beta(t), xi) for xi in self.xi(t)]

    def rho(self, t: int) -> list[float]:
        weights = [math.exp(-self.beta(t) * self.L(a, t - 1)) for a in range(self.arms)]
        return [weight / sum(weights) for weight in weights]

    def chances(self, t: int) -> list[float]:
        """ρ̃_t."""
        epsilon, rho = self.epsilon(t), self.rho(t)
        return [(1 - sum(epsilon)) * rho[a] + epsilon[a] for a in range(self.arms)]

    def observe(self, arm: int, loss: float) -> None:
        self.history.append(Play(self.chances(len(self.history) + 1), arm, loss))


@dataclass
class UCB1:
    """Auer, Cesa-Bianchi and Fischer, "Finite-time Analysis of the Multiarmed Bandit Problem", 2002: UCB1.

    Every arm once, then the arm of the largest mean + √(2 ln n / n_a). Nothing in it is random.
    """

    arms: int
    history: list[tuple[int, float]] = field(default_factory=list)
    drawn: int = 0

    def index(self, a: int) -> float:
        paid = [value for arm, value in self.history if arm == a]
        if not paid:
            return math.inf
        return sum(paid) / len(paid) + math.sqrt(2 * math.log(len(self.history)) / len(paid))

    def draw(self) -> int:
        self.drawn = max(range(self.arms), key=self.index)
        return self.drawn

    def reward(self, value: float) -> None:
        self.history.append((self.drawn, value))


@dataclass
class Exp31:
    """Auer, Cesa-Bianchi, Freund and Schapire, "The Nonstochastic Multiarmed Bandit Problem", 2002: Exp3.1.

    Exp3 (their figure 1) started anew with a smaller γ whenever the best estimated gain outgrows the guess that γ
    was chosen for (their figure 2): no horizon needs to be known. In log weights, which cannot overflow.
    """

    arms: int
    seed: int
    epoch: int = 0
    drawn: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.gains = [0.0] * self.arms
        self.restart()

    @property
    def guess(self) -> float:
        """g_r = (K ln K)/(e − 1) 4^r."""
        return self.arms * math.log(self.arms) / (math.e - 1) * 4**self.epoch

    @property
    def gamma(self) -> float:
        """min{1, √(K ln K / ((e − 1) g_r))}."""
        return min(1.0, math.sqrt(self.arms * math.log(self.arms) / ((math.e - 1) * self.guess)))

    def restart(self) -> None:
        self.logs = [0.0] * self.arms

    def chances(self) -> list[float]:
        """p(a) = (1 − γ) w(a)/Σw + γ/K."""
        weights = [math.exp(log - max(self.logs)) for log in self.logs]
        return [(1 - self.gamma) * weight / sum(weights) + self.gamma / self.arms for weight in weights]

    def draw(self) -> int:
        while max(self.gains) > self.guess - self.arms / self.gamma:
            self.epoch += 1
            self.restart()
        self.drawn = self.random.choices(range(self.arms), self.chances())[0]
        return self.drawn

    def reward(self, value: float) -> None:
        """Ĝ += x̂ and w ← w exp(γ x̂/K), with x̂ = x/p for the arm that was drawn."""
        estimate = value / self.chances()[self.drawn]
        self.gains[self.drawn] += estimate
        self.logs[self.drawn] += self.gamma * estimate / self.arms


Rewards = list[list[float]]
"""What every arm would pay, round by round."""


def bernoulli(means: list[float], rounds: int, seed: int) -> Rewards:
    """Arms that pay 1 with their mean as the chance, and 0 else."""
    source = random.Random(seed)
    return [[float(source.random() < mean) for mean in means] for _ in range(rounds)]


def switching(lengths: list[int], arms: int) -> Rewards:
    """One arm pays 1 and all others 0, each in its turn for so many rounds."""
    return [
        [float(a == turn % arms) for a in range(arms)] for turn, rounds in enumerate(lengths) for _ in range(rounds)
    ]


def against_ucb1(arms: int, rounds: int) -> Rewards:
    """Whatever UCB1 plays pays 0, and all else pays 1; UCB1 is not random, so this can be written down beforehand."""
    table, victim = [], UCB1(arms)
    for _ in range(rounds):
        arm = victim.draw()
        table.append([float(a != arm) for a in range(arms)])
        victim.reward(table[-1][arm])
    return table
