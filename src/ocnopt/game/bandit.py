"""Which of K arms to play: EXP3++, at home where the arms pay at random and where they pay to mislead.

Seldin and Slivkins, "One Practical Algorithm for Both Stochastic and Adversarial Bandits", ICML 2014. In round t
the arm A_t is played, and of the losses ℓ_t(a) in [0, 1] only ℓ_t(A_t) is seen:

    L̃_t(a) = Σ_{s≤t} ℓ_s(a) 1[A_s = a] / ρ̃_s(a)
    β_t    = ½ √(ln K / (t K))
    ρ_t(a) ∝ exp(−η_t L̃_{t−1}(a)),  η_t = β_t
    Δ̂_t(a) = min{1, (L̃_t(a) − min_a' L̃_t(a')) / t}
    ξ_t(a) = c (ln t)² / (t Δ̂_{t−1}(a)²)
    ε_t(a) = min{1/(2K), β_t, ξ_t(a)}
    ρ̃_t(a) = (1 − Σ_a' ε_t(a')) ρ_t(a) + ε_t(a)        the chance that A_t = a

Whatever the losses, what is expected to be lost to the best single arm stays below 4 √(K t ln K) (Theorem 1, for
any ξ ≥ 0). Where they are drawn at random, ε leaves the losing arms as soon as the gap to them shows.
"""

from __future__ import annotations

import math
from bisect import bisect
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch

Decision = tuple[int, int, float]
"""Number of the draw, from 1 on; arm; reward."""

STREAM = 2_014_000_003
"""Keeps the draws apart from other generators that start from the same seed."""


def rate(arms: int, t: int) -> float:
    """β_t = η_t = ½ √(ln K / (t K))."""
    return 0.5 * math.sqrt(math.log(arms) / (t * arms))


def gaps(losses: list[float], t: int) -> list[float]:
    """Δ̂_t(a) from L̃_t; before the first round all are zero."""
    least = min(losses)
    return [min(1.0, (loss - least) / max(t, 1)) for loss in losses]


def softmin(losses: list[float], eta: float) -> list[float]:
    """ρ(a) ∝ exp(−η L̃(a)); the least loss is taken out first, so that not all terms vanish."""
    least = min(losses)
    weights = [math.exp(-eta * (loss - least)) for loss in losses]
    total = sum(weights)
    return [weight / total for weight in weights]


def weighted(loss: float, chance: float) -> float:
    """ℓ/ρ̃: its mean over the draws is the loss itself, whether or not the arm is drawn."""
    return loss / chance


@dataclass(frozen=True)
class Exp3pp:
    """Options of the bandit.

    c: how much is explored where losses are random. The analysis asks for c ≥ 18, which for hundreds of millions
        of rounds explores as if there were no gap; 1/32 is the constant of the paper's experiments, there with
        ln(t Δ̂²) in place of (ln t)². The bound for adversarial losses holds for every ξ ≥ 0, and so for every c.
    """

    c: float = 1 / 32

    def __post_init__(self) -> None:
        if not (math.isfinite(self.c) and self.c > 0):
            raise ValueError(f"Exp3pp(c={self.c}) must be a positive number.")

    def xi(self, gap: float, t: int) -> float:
        """ξ_t = c (ln t)² / (t Δ̂_{t−1}²); without a gap it sets no limit."""
        if gap == 0:
            return math.inf
        root = math.log(t) / gap  # a gap may be so small that its square is zero
        return self.c * root * root / t

    def exploration(self, losses: list[float], t: int) -> list[float]:
        """ε_t(a) from L̃_{t−1}."""
        most = min(0.5 / len(losses), rate(len(losses), t))
        return [min(most, self.xi(gap, t)) for gap in gaps(losses, t - 1)]

    def chances(self, losses: list[float], t: int) -> list[float]:
        """ρ̃_t(a) from L̃_{t−1}."""
        epsilon = self.exploration(losses, t)
        rest = 1 - sum(epsilon)
        rho = softmin(losses, rate(len(losses), t))
        return [rest * r + e for r, e in zip(rho, epsilon, strict=True)]


@dataclass
class Bandit:
    """Draws one of so many arms, and learns from the reward that it gets for it.

    A draw that gets no reward counts for nothing: the next draw drops it. Arms, seed and options are given anew
    where a state is loaded; everything else is in the state.

    losses: L̃.  log: the decisions that were rewarded.  pending: the arm that waits for its reward, if one does.
    """

    arms: int
    seed: int = 0
    options: Exp3pp = field(default_factory=Exp3pp)
    draws: int = field(default=0, init=False)
    pending: list[int] = field(default_factory=list, init=False)
    losses: list[float] = field(init=False)
    log: list[Decision] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.arms < 1:
            raise ValueError(f"Bandit(arms={self.arms}) needs at least one arm.")
        self.losses = [0.0] * self.arms

    def generator(self) -> torch.Generator:
        """A generator for this draw alone, so that nothing needs to be saved to repeat it."""
        return torch.Generator("cpu").manual_seed(STREAM + self.seed * 1_000_003 + self.draws)

    def probabilities(self) -> list[float]:
        """The chance of every arm in the coming draw, or in the draw that waits for its reward."""
        return self.options.chances(self.losses, len(self.log) + 1)

    def draw(self) -> int:
        """The arm to play."""
        self.draws += 1
        point = torch.rand((), dtype=torch.float64, device="cpu", generator=self.generator()).item()
        # Rounding may leave the sum of the chances just below the point.
        arm = min(bisect(list(accumulate(self.probabilities())), point), self.arms - 1)
        self.pending = [arm]
        return arm

    def reward(self, value: float) -> None:
        """What the arm drawn last has paid, from 0 (worst) to 1 (best)."""
        value = float(value)
        if not 0 <= value <= 1:
            raise ValueError(f"reward({value}) must lie in [0, 1]; scale what was measured into it.")
        if not self.pending:
            raise RuntimeError("No arm waits for a reward: call draw() first, and reward() once after it.")
        arm = self.pending.pop()
        self.losses[arm] += weighted(1 - value, self.probabilities()[arm])
        self.log.append((self.draws, arm, value))

    def state_dict(self) -> dict[str, Any]:
        """All that was learned, as numbers and lists of them."""
        lists = {"pending": [*self.pending], "losses": [*self.losses], "log": [list(entry) for entry in self.log]}
        return {"arms": self.arms, "draws": self.draws, **lists}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where the bandit with this state was."""
        if state["arms"] != self.arms:
            raise ValueError(f"The state has {state['arms']} arms and the bandit {self.arms}; they must be as many.")
        self.draws, self.pending, self.losses = state["draws"], [*state["pending"]], [*state["losses"]]
        self.log = [(number, arm, value) for number, arm, value in state["log"]]
