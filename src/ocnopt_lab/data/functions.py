"""Smooth functions of one to six variables under the names they have in the literature of surrogate models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ocnopt_lab.arrays import Arrays

Values = NDArray[np.float64]

TEST_SAMPLES = 1000
NOISE = 0.05
"""Deviation of the noise on training targets, in deviations of the targets."""


@dataclass(frozen=True)
class Function:
    """`formula` takes x (samples, variables) between `low` and `high` and gives (samples,)."""

    name: str
    formula: Callable[[Values], Values]
    low: tuple[float, ...]
    high: tuple[float, ...]
    samples: int

    def draw(self, seed: int) -> Arrays:
        """Training points of a Latin hypercube, uniform test points, exact targets."""
        from scipy.stats import qmc  # a second to import: not for the other problems

        rng = np.random.default_rng(seed)
        unit = qmc.LatinHypercube(len(self.low), rng=rng).random(self.samples)
        train = qmc.scale(unit, self.low, self.high)
        test = rng.uniform(self.low, self.high, size=(TEST_SAMPLES, len(self.low)))
        return Arrays(train, self.formula(train), test, self.formula(test))

    def draw_noisy(self, seed: int) -> Arrays:
        """The same points; noise on the training targets only, so that the test says how well the function is met."""
        exact = self.draw(seed)
        noise = np.random.default_rng((seed, 1)).normal(size=self.samples)
        noisy = exact.y_train + NOISE * exact.y_train.std() * noise
        return Arrays(exact.x_train, noisy, exact.x_test, exact.y_test)


def forrester(x: Values) -> Values:
    """Forrester et al. (2008)."""
    z = x[:, 0]
    return (6 * z - 2) ** 2 * np.sin(12 * z - 4)


def branin(x: Values) -> Values:
    """Branin (1972)."""
    a, b = x.T
    valley = b - 5.1 / (4 * np.pi**2) * a**2 + 5 / np.pi * a - 6
    return valley**2 + 10 * (1 - 1 / (8 * np.pi)) * np.cos(a) + 10


def franke(x: Values) -> Values:
    """Franke (1979)."""
    a, b = 9 * x.T
    hills = 0.75 * np.exp(-((a - 2) ** 2 + (b - 2) ** 2) / 4) + 0.75 * np.exp(-((a + 1) ** 2) / 49 - (b + 1) / 10)
    hill, dip = np.exp(-((a - 7) ** 2 + (b - 3) ** 2) / 4), np.exp(-((a - 4) ** 2) - (b - 7) ** 2)
    return hills + 0.5 * hill - 0.2 * dip


def ishigami(x: Values) -> Values:
    """Ishigami and Homma (1990), with 7 and 0.1."""
    a, b, c = x.T
    return np.sin(a) + 7 * np.sin(b) ** 2 + 0.1 * c**4 * np.sin(a)


def park(x: Values) -> Values:
    """Park (1991), the first function, with its first term in a form that holds at 0 too."""
    a, b, c, d = x.T
    return (np.sqrt(a**2 + (b + c**2) * d) - a) / 2 + (a + 3 * d) * np.exp(1 + np.sin(c))


def friedman(x: Values) -> Values:
    """Friedman (1991), the first function, without its idle variables."""
    a, b, c, d, e = x.T
    return 10 * np.sin(np.pi * a * b) + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e


def otl_circuit(x: Values) -> Values:
    """Midpoint voltage of an output transformerless push-pull circuit: Ben-Ari and Steinberg (2007)."""
    rb1, rb2, rf, rc1, rc2, beta = x.T
    gain = beta * (rc2 + 9)
    base = 12 * rb2 / (rb1 + rb2)
    return ((base + 0.74) * gain + 11.35 * rf + 0.74 * rf * gain / rc1) / (gain + rf)


_HARTMANN_WEIGHTS = np.array([1.0, 1.2, 3.0, 3.2])
_HARTMANN_SCALES = np.array(
    [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8], [17, 8, 0.05, 10, 0.1, 14]]
)
_HARTMANN_CENTRES = 1e-4 * np.array(
    [
        [1312, 1696, 5569, 124, 8283, 5886],
        [2329, 4135, 8307, 3736, 1004, 9991],
        [2348, 1451, 3522, 2883, 3047, 6650],
        [4047, 8828, 8732, 5743, 1091, 381],
    ]
)


def hartmann(x: Values) -> Values:
    """Hartmann's function of six variables (Dixon and Szegő 1978)."""
    squares: Any = (x[:, None] - _HARTMANN_CENTRES) ** 2
    return -np.exp(-(_HARTMANN_SCALES * squares).sum(-1)) @ _HARTMANN_WEIGHTS


def _unit(variables: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (0.0,) * variables, (1.0,) * variables


FUNCTIONS = {
    function.name: function
    for function in (
        Function("forrester", forrester, *_unit(1), samples=100),
        Function("branin", branin, (-5.0, 0.0), (10.0, 15.0), samples=400),
        Function("franke", franke, *_unit(2), samples=400),
        Function("ishigami", ishigami, (-np.pi,) * 3, (np.pi,) * 3, samples=1000),
        Function("park", park, *_unit(4), samples=1000),
        Function("friedman", friedman, *_unit(5), samples=1000),
        Function("otl-circuit", otl_circuit, (50, 25, 0.5, 1.2, 0.25, 50), (150, 70, 3, 2.5, 1.2, 300), samples=1000),
        Function("hartmann", hartmann, *_unit(6), samples=2000),
    )
}
