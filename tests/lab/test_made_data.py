"""Data that are made on the spot, and those that only a folder holds, against formulas and values known elsewhere."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from sklearn.datasets import make_friedman1
from torchdiffeq import odeint

from ocnopt_lab import data
from ocnopt_lab.arrays import pixels, unchanged
from ocnopt_lab.data import Recipe, planar, uci
from ocnopt_lab.data.functions import FUNCTIONS, NOISE
from ocnopt_lab.data.series import marked
from ocnopt_lab.data.systems import SYSTEMS
from ocnopt_lab.errors import LabError
from ocnopt_lab.tasks import Density, Reconstruction, Regression

TARGETS = Recipe(Regression())


# functions

KNOWN = {  # a point and the value there, from the literature
    "forrester": ([0.757249], -6.02074, 1e-5),
    "branin": ([math.pi, 2.275], 0.397887, 1e-6),
    "ishigami": ([math.pi / 2, math.pi / 2, 1.0], 1 + 7 + 0.1, 1e-12),
    "hartmann": ([0.20169, 0.150011, 0.476874, 0.275332, 0.311652, 0.6573], -3.32237, 1e-5),
}


@pytest.mark.parametrize("name", KNOWN)
def test_functions_have_their_known_values(name: str) -> None:
    point, value, accuracy = KNOWN[name]
    assert FUNCTIONS[name].formula(np.array([point])).item() == pytest.approx(value, abs=accuracy)


def test_friedman_is_scikit_learns() -> None:
    x, y = make_friedman1(50, n_features=5, random_state=0)
    np.testing.assert_allclose(FUNCTIONS["friedman"].formula(x), y)


def test_franke_is_the_sum_of_its_four_terms() -> None:
    x, y = 0.3, 0.8
    terms = [
        0.75 * math.exp(-((9 * x - 2) ** 2) / 4 - (9 * y - 2) ** 2 / 4),
        0.75 * math.exp(-((9 * x + 1) ** 2) / 49 - (9 * y + 1) / 10),
        0.5 * math.exp(-((9 * x - 7) ** 2) / 4 - (9 * y - 3) ** 2 / 4),
        -0.2 * math.exp(-((9 * x - 4) ** 2) - (9 * y - 7) ** 2),
    ]
    assert FUNCTIONS["franke"].formula(np.array([[x, y]])).item() == pytest.approx(sum(terms))


def test_park_is_its_published_form() -> None:
    a, b, c, d = 0.4, 0.7, 0.2, 0.9
    published = a / 2 * (math.sqrt(1 + (b + c**2) * d / a**2) - 1) + (a + 3 * d) * math.exp(1 + math.sin(c))
    assert FUNCTIONS["park"].formula(np.array([[a, b, c, d]])).item() == pytest.approx(published)


def test_the_circuit_is_its_published_form() -> None:
    rb1, rb2, rf, rc1, rc2, beta = 60.0, 40.0, 1.5, 2.0, 0.5, 120.0
    vb1, gain = 12 * rb2 / (rb1 + rb2), beta * (rc2 + 9)
    terms = (vb1 + 0.74) * gain / (gain + rf), 11.35 * rf / (gain + rf), 0.74 * rf * gain / ((gain + rf) * rc1)
    found = FUNCTIONS["otl-circuit"].formula(np.array([[rb1, rb2, rf, rc1, rc2, beta]])).item()
    assert found == pytest.approx(sum(terms))


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=lambda function: function.name)
def test_noise_is_on_the_training_targets_alone(function) -> None:
    exact, noisy = function.draw(3), function.draw_noisy(3)
    for key in ("x_train", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(exact, key), getattr(noisy, key))
    noise = (noisy.y_train - exact.y_train) / exact.y_train.std()
    assert noise.std() == pytest.approx(NOISE, rel=0.25)
    assert (exact.x_train >= function.low).all() and (exact.x_train <= function.high).all()


def test_the_split_seeds_what_is_made() -> None:
    one, same, other = (data.load("function-franke", split=split, recipe=TARGETS) for split in (1, 1, 2))
    assert torch.equal(one.x_train, same.x_train) and not torch.equal(one.x_train, other.x_train)


# trajectories


def test_the_spiral_is_that_of_another_solver() -> None:
    system = SYSTEMS["spiral"]
    matrix = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]], dtype=torch.float64)
    start, times = torch.tensor([2.0, 0.0], dtype=torch.float64), torch.from_numpy(system.grid)
    expected = odeint(lambda t, y: y**3 @ matrix, start, times, method="dopri8", rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(system.trajectory(start.numpy()), expected.numpy(), atol=1e-6)


def test_lotka_volterra_keeps_its_invariant() -> None:
    prey, predators = SYSTEMS["lotka-volterra"].trajectory(np.array([1.5, 0.5])).T
    invariant = prey - np.log(prey) + 4 / 3 * predators - 2 / 3 * np.log(predators)
    np.testing.assert_allclose(invariant, invariant[0], rtol=1e-7)
    assert np.ptp(prey) > 0.5


def test_van_der_pol_is_its_equation_of_second_order() -> None:
    system = SYSTEMS["van-der-pol"]

    def rate(_, state):
        x, v = state
        return [v, (1 - x * x) * v - x]

    expected = solve_ivp(rate, (0, system.end), [0.5, -1.0], "LSODA", system.grid, rtol=1e-10, atol=1e-12).y.T
    np.testing.assert_allclose(system.trajectory(np.array([0.5, -1.0])), expected, atol=1e-6)


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=lambda system: system.name)
def test_windows_are_pieces_of_trajectories(system) -> None:
    arrays, (train, test) = system.draw(0), system.trajectories(0)
    assert arrays.y_train.shape[1:] == (system.window, 2)
    np.testing.assert_array_equal(arrays.x_train, arrays.y_train[:, 0])
    np.testing.assert_array_equal(arrays.y_train[1], train[0, system.stride : system.stride + system.window])
    starts = {tuple(state) for state in train[:, 0]}
    assert len(starts) == system.starts and not starts & {tuple(state) for state in test[:, 0]}


def test_noise_is_on_trained_trajectories_alone() -> None:
    system = SYSTEMS["van-der-pol"]
    exact, noisy = system.draw(0), system.draw_noisy(0)
    np.testing.assert_array_equal(exact.y_test, noisy.y_test)
    ratio = (noisy.y_train - exact.y_train).std(axis=(0, 1)) / exact.y_train.std(axis=(0, 1))
    np.testing.assert_allclose(ratio, 0.02, rtol=0.2)


# densities


@pytest.mark.parametrize("name", planar.PLANAR)
def test_samples_in_the_plane(name: str) -> None:
    found = data.load(name, recipe=Recipe(Density(), unchanged))
    assert found.x_train.shape == (planar.TRAIN, 2) and found.y_train.shape == (planar.TRAIN, 0)
    assert found.outputs == 2 and found.x_train.abs().max() < 8
    assert not torch.equal(found.x_train[: planar.TEST], found.x_test)


def test_eight_gaussians_lie_around_eight_centres() -> None:
    points = planar.draw("8gaussians", 0).x_train
    radius, angle = np.hypot(*points.T), np.arctan2(points[:, 1], points[:, 0])
    assert radius.mean() == pytest.approx(4 / math.sqrt(2), rel=0.05)
    away = np.abs((angle + np.pi / 8) % (np.pi / 4) - np.pi / 8)
    assert np.median(away) < 0.12


# files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of 40 rows with two splits, under the name of a published one."""
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, size=(40, 6))
    x[:, 5] = 1.0
    arrays = {"yacht_x": x, "yacht_y": 5 * x[:, 0] + 100, "yacht_test_index": np.array([[0, 1, 2, 3], [7, 5, 9, 11]])}
    np.savez(tmp_path / uci.FILE, **arrays)
    return tmp_path


def test_the_published_split_is_used(folder: Path) -> None:
    found = data.load("uci-yacht", data_dir=folder, split=1, recipe=TARGETS)
    raw = np.load(folder / uci.FILE)
    rest = np.setdiff1d(np.arange(40), [5, 7, 9, 11])
    y, mean, deviation = raw["yacht_y"], raw["yacht_y"][rest].mean(), raw["yacht_y"][rest].std()
    np.testing.assert_allclose(found.y_test[:, 0].numpy(), (y[[5, 7, 9, 11]] - mean) / deviation, rtol=1e-5)
    assert len(found.x_train) == 36 and found.x_train[:, 5].abs().max() == 0


def test_a_split_that_was_not_published_is_named(folder: Path) -> None:
    with pytest.raises(LabError, match="--split is 2, but uci-yacht has the published splits 0 to 1"):
        data.load("uci-yacht", data_dir=folder, split=2, recipe=TARGETS)


def test_features_of_a_density_are_standardised_and_never_constant(folder: Path) -> None:
    found = data.load("features-yacht", data_dir=folder, recipe=Recipe(Density(), unchanged))
    assert found.x_train.shape == (36, 6)  # five columns that vary, and the target
    torch.testing.assert_close(found.x_train.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.x_train.std(0, correction=0), torch.ones(6))


def test_one_split_is_one_split() -> None:
    with pytest.raises(LabError, match="--split is 1, but digits has one split only"):
        data.load("digits", split=1)


@pytest.mark.parametrize("name", ["uci-boston", "articulary_words", "characters", "features-protein"])
def test_data_that_are_absent_are_one_sentence(name: str) -> None:
    with pytest.raises(LabError, match=rf"{name} is not on this machine .* into a folder and name it with --data-dir"):
        data.load(name, recipe=TARGETS)


def test_a_mark_says_up_to_where_a_series_was_observed() -> None:
    found = marked(np.ones((2, 3, 1)), np.array([1, 3]))
    assert found[..., 1].tolist() == [[1, 0, 0], [1, 1, 1]]


def test_characters_are_split_in_equal_shares(tmp_path: Path) -> None:
    y = np.repeat(np.arange(4), 6).astype(np.uint8)
    x, length = np.random.default_rng(0).normal(size=(24, 5, 3)), np.full(24, 4)
    np.savez(tmp_path / "uea_charactertrajectories.npz", x=x, y=y, length=length)
    one, other = (data.load("characters", data_dir=tmp_path, split=split) for split in (0, 1))
    assert torch.bincount(one.y_train).tolist() == [3, 3, 3, 3] == torch.bincount(other.y_test).tolist()
    assert not torch.equal(one.x_train, other.x_train)


def test_pixels_that_are_no_bytes_are_scaled_by_the_largest() -> None:
    found = data.load("digits", recipe=Recipe(Reconstruction(), pixels))
    assert found.in_shape == (64,) and found.x_train.max() == 1 and found.x_train.min() == 0
