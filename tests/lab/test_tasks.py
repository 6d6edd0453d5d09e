"""Losses and scores of the tasks against formulas written out here, and targets that do not fit a task."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ocnopt_lab import data
from ocnopt_lab.arrays import Arrays, pixels, series, unchanged
from ocnopt_lab.cli import main
from ocnopt_lab.data import Recipe, npz
from ocnopt_lab.data.dataset import build
from ocnopt_lab.errors import LabError
from ocnopt_lab.problems import PROBLEMS
from ocnopt_lab.runs.evaluate import evaluate
from ocnopt_lab.tasks import (
    Classification,
    Density,
    MaxMahalanobis,
    NextCharacter,
    Reconstruction,
    Regression,
    Trajectories,
)
from ocnopt_lab.tasks.base import Measure

RNG = np.random.default_rng(0)
X_TRAIN, X_TEST = RNG.normal(size=(200, 3)), RNG.normal(size=(150, 3))


def targets(x: np.ndarray) -> np.ndarray:
    """Two quantities in units of their own."""
    return np.column_stack([1000 + 300 * x[:, 0], 0.01 * x[:, 1] - 5])


RAW = Arrays(X_TRAIN, targets(X_TRAIN), X_TEST, targets(X_TEST))


def test_inputs_and_targets_are_standardised_with_the_training_part() -> None:
    found = build("raw", RAW, Recipe(Regression()))
    mean, deviation = RAW.y_train.mean(0), RAW.y_train.std(0)
    torch.testing.assert_close(found.y_test, torch.tensor((RAW.y_test - mean) / deviation).float())
    expected = (RAW.x_test - RAW.x_train.mean(0)) / RAW.x_train.std(0)
    torch.testing.assert_close(found.x_test, torch.tensor(expected).float(), atol=1e-5, rtol=1e-4)
    assert found.outputs == 2


def test_the_rmse_is_in_the_units_of_the_data() -> None:
    torch.manual_seed(0)
    found, model = build("raw", RAW, Recipe(Regression())), nn.Linear(3, 2)
    scores = evaluate(model, found.task, found.x_test, found.y_test)
    standard = model(found.x_test).detach().double().numpy()
    predicted = standard * RAW.y_train.std(0) + RAW.y_train.mean(0)
    assert scores["rmse"] == pytest.approx(np.sqrt(np.mean((predicted - RAW.y_test) ** 2)), rel=1e-5)
    assert scores["loss"] == pytest.approx(np.mean((standard - found.y_test.numpy()) ** 2), rel=1e-5)


def test_a_constant_target_is_not_divided_by_zero() -> None:
    flat = Arrays(X_TRAIN, np.full(200, 7.0), X_TEST, np.full(150, 7.5))
    found = build("flat", flat, Recipe(Regression()))
    assert found.y_train.abs().max() == 0 and torch.equal(found.y_test, torch.full((150, 1), 0.5))


def test_reconstruction_sums_over_the_pixels_of_an_image() -> None:
    logits, x = torch.randn(5, 12, dtype=torch.float64), torch.rand(5, 12, dtype=torch.float64)
    p = torch.sigmoid(logits)
    expected = -(x * p.log() + (1 - x) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(Reconstruction().loss(logits, x), expected)
    assert Reconstruction().counted(logits, x) == pytest.approx(((p - x) ** 2).sum().item())


def test_autoencoders_get_pixels_between_0_and_1_as_inputs_and_targets() -> None:
    images = RNG.integers(0, 256, size=(7, 4, 4), dtype=np.uint8)
    found = build("images", Arrays(images, np.arange(7), images, np.arange(7)), Recipe(Reconstruction(), pixels))
    torch.testing.assert_close(found.x_train, torch.tensor(images.reshape(7, 16) / 255).float())
    assert torch.equal(found.y_test, found.x_test) and found.outputs == 16


def test_a_density_is_that_of_the_normal_it_came_from() -> None:
    """x ↦ x / 3 carries a normal of deviation 3 to a standard one; the logarithm changes by 2 log 3 in the plane."""
    x = torch.randn(50, 2, dtype=torch.float64)
    end = torch.cat([x / 3, torch.full((50, 1), 2 * math.log(3), dtype=torch.float64)], dim=1)
    expected = -torch.distributions.Normal(torch.zeros(()).double(), 3.0).log_prob(x).sum(1).mean()
    torch.testing.assert_close(Density().loss(end, x[:, :0]), expected)


def test_trajectories_average_over_times_and_states() -> None:
    output, target = torch.zeros(2, 3, 2), torch.zeros(2, 3, 2)
    target[0, 1, 0] = 6.0
    assert Trajectories().loss(output, target).item() == pytest.approx(3.0)


def test_padding_of_series_stays_zero_and_does_not_enter_the_mean() -> None:
    x = np.zeros((3, 4, 2), dtype=np.float32)
    x[:, :2, 0], x[:, :2, 1] = [[1, 3], [5, 7], [9, 11]], 1
    found, _ = series(x, x)
    seen = np.array([1, 3, 5, 7, 9, 11])
    np.testing.assert_allclose(found[:, :2, 0].ravel(), (seen - seen.mean()) / seen.std(), rtol=1e-5)
    assert not found[:, 2:].any() and np.array_equal(found[..., 1], x[..., 1])


@pytest.mark.parametrize("best", [min, max])
def test_the_worst_value_of_a_measure_loses_to_any_other(best) -> None:
    measure = Measure("x", "x", ".3g", best)
    assert best(measure.worst, 5.0) == 5.0 and measure.text(None) == "not finite" == measure.text(math.nan)


def save(tmp_path: Path, **changes: np.ndarray) -> Path:
    np.savez(tmp_path / "mine.npz", **{**vars(RAW), **changes})
    return tmp_path / "mine.npz"


@pytest.mark.parametrize("columns", [0, [0, 1]], ids=["(samples,)", "(samples, outputs)"])
def test_own_quantities_are_learned(tmp_path: Path, columns) -> None:
    file = save(tmp_path, y_train=RAW.y_train[:, columns], y_test=RAW.y_test[:, columns])
    command = ["train", "function-branin", "--data", str(file), "--optimizer.name", "adam", "--optimizer.lr", "0.01"]
    assert main([*command, "--epochs", "40", "--batch-size", "20", "--out", "run", "--quiet"]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert 0 < summary["test_rmse"] < 60 and summary["train_rmse"] > 0 and summary["train_loss"] < 0.1
    assert "test_accuracy" not in summary


BAD = {
    "labels": ({"y_train": np.arange(200) % 3}, "y_train has type int64; regression needs floating-point targets"),
    "not finite": ({"y_test": np.full(150, np.nan)}, "y_test holds 150 targets that are not finite"),
    "shape": ({"y_train": np.zeros((200, 2, 2))}, "y_train has shape (200, 2, 2); targets must be (samples,)"),
    "outputs": ({"y_test": np.zeros((150, 3))}, "a target of y_train has shape (2,), one of y_test (3,)"),
    "lengths": ({"y_test": np.zeros((149, 2))}, "x_test has 150 samples, y_test has 149"),
    "a number": ({"y_train": np.float64(3)}, "x_train has 200 samples, y_train has 0"),
}


@pytest.mark.parametrize(("changes", "sentence"), BAD.values(), ids=BAD)
def test_targets_that_are_no_quantities_get_their_sentence(tmp_path: Path, changes, sentence: str) -> None:
    file = save(tmp_path, **changes)
    with pytest.raises(LabError) as error:
        npz.read(file, Regression())
    assert sentence in str(error.value) and str(file) in str(error.value)


def test_quantities_are_no_labels(tmp_path: Path) -> None:
    file = save(tmp_path, y_train=RAW.y_train[:, 0], y_test=RAW.y_test[:, 0])
    with pytest.raises(LabError, match="or choose a regression problem if they are quantities"):
        npz.read(file, Classification())


def test_negative_values_are_no_pixels(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="an autoencoder needs pixels from 0 up"):
        npz.read(save(tmp_path), Reconstruction())


@pytest.mark.parametrize("task", [Trajectories(), Density()], ids=lambda task: task.name)
def test_problems_that_make_their_data_take_no_file(tmp_path: Path, task) -> None:
    with pytest.raises(LabError, match="makes its own data; leave --data out"):
        data.load("spiral", file=save(tmp_path), recipe=Recipe(task, unchanged))


def test_every_task_has_a_problem() -> None:
    found = {problem.task.name for problem in PROBLEMS.values()}
    kinds = (Classification, MaxMahalanobis, NextCharacter, Regression, Reconstruction, Trajectories, Density)
    assert found == {kind.name for kind in kinds}
