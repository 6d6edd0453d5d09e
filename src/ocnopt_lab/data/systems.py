"""Dynamical systems whose trajectories are known to a solver's tightest tolerance, cut into short windows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ocnopt_lab.arrays import Arrays

States = NDArray[np.float64]

NOISE = 0.02
"""Deviation of the noise on training observations, in deviations of each state."""
TEST_STARTS = 8
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class System:
    """dx/dt = rate(x) for x (states,), seen at `times` points from 0 to `end`, in windows of `window` points.

    `start` draws initial states (states,) from a generator; `starts` of them are trained on.
    """

    name: str
    rate: Callable[[States], States]
    start: Callable[[np.random.Generator], States]
    starts: int
    end: float
    times: int
    window: int
    stride: int = 1

    @property
    def grid(self) -> States:
        """All times of observation."""
        return np.linspace(0, self.end, self.times)

    def trajectory(self, start: States) -> States:
        """The true states (times, states) from `start` (states,)."""
        from scipy.integrate import solve_ivp

        span, settings = (0.0, self.end), {"rtol": _TOLERANCE, "atol": _TOLERANCE}
        return solve_ivp(lambda _, x: self.rate(x), span, start, "DOP853", self.grid, **settings).y.T

    def trajectories(self, seed: int) -> tuple[States, States]:
        """(starts, times, states) to train on and (TEST_STARTS, times, states) from initial states held out."""
        train, test = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
        return self._from(train, self.starts), self._from(test, TEST_STARTS)

    def _from(self, rng: np.random.Generator, starts: int) -> States:
        return np.stack([self.trajectory(self.start(rng)) for _ in range(starts)])

    def draw(self, seed: int) -> Arrays:
        """Windows: first states (samples, states) and all states (samples, window, states)."""
        return self._windows(*self.trajectories(seed))

    def draw_noisy(self, seed: int) -> Arrays:
        """Noise on what is trained on, initial states included; the test is the truth."""
        train, test = self.trajectories(seed)
        noise = np.random.default_rng((seed, 2)).normal(size=train.shape)
        return self._windows(train + NOISE * train.std(axis=(0, 1)) * noise, test)

    def _windows(self, train: States, test: States) -> Arrays:
        first, second = (self._cut(states) for states in (train, test))
        return Arrays(first[:, 0], first, second[:, 0], second)

    def _cut(self, states: States) -> States:
        """(starts, times, states) → (starts · windows, window, states)."""
        windows = np.lib.stride_tricks.sliding_window_view(states, self.window, axis=1)[:, :: self.stride]
        return windows.transpose(0, 1, 3, 2).reshape(-1, self.window, states.shape[2])


_SPIRAL = np.array([[-0.1, 2.0], [-2.0, -0.1]])


def spiral(x: States) -> States:
    """The cubic spiral of the Neural ODE paper (Chen et al., arXiv 1806.07366): x³ A."""
    return x**3 @ _SPIRAL


def lotka_volterra(x: States) -> States:
    """Prey and predators: (2/3 a - 4/3 a b, a b - b)."""
    prey, predators = x
    return np.array([2 / 3 * prey - 4 / 3 * prey * predators, prey * predators - predators])


def van_der_pol(x: States) -> States:
    """The oscillator with μ = 1 as a system of first order."""
    return np.array([x[1], (1 - x[0] ** 2) * x[1] - x[0]])


def _on_ring(rng: np.random.Generator) -> States:
    angle = rng.uniform(0, 2 * np.pi)
    return rng.uniform(1.2, 2.0) * np.array([np.cos(angle), np.sin(angle)])


def _herds(rng: np.random.Generator) -> States:
    return rng.uniform([0.8, 0.3], [1.8, 0.9])


def _around_cycle(rng: np.random.Generator) -> States:
    return rng.uniform(-2.5, 2.5, size=2)


SYSTEMS = {
    system.name: system
    for system in (
        System("spiral", spiral, _on_ring, starts=8, end=25.0, times=251, window=10, stride=2),
        System("lotka-volterra", lotka_volterra, _herds, starts=8, end=20.0, times=201, window=10, stride=2),
        System("van-der-pol", van_der_pol, _around_cycle, starts=8, end=15.0, times=151, window=10, stride=2),
    )
}
