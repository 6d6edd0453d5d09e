"""`--data FILE.npz`: good files train, bad files get one sentence each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ocnopt_lab import data
from ocnopt_lab.cli import main
from ocnopt_lab.data import npz as reader
from ocnopt_lab.errors import LabError


def test_features_are_standardised_by_the_training_set(npz: Path, arrays) -> None:
    loaded = data.load("digits", file=npz)
    mean, deviation = arrays["x_train"].mean(0), arrays["x_train"].std(0)
    torch.testing.assert_close(loaded.x_test, torch.tensor((arrays["x_test"] - mean) / deviation).float())
    assert (loaded.outputs, loaded.in_shape) == (3, (6,))


def test_a_constant_feature_becomes_zero(tmp_path: Path, arrays) -> None:
    arrays["x_train"][:, 0] = arrays["x_test"][:, 0] = 7.5
    np.savez(tmp_path / "a.npz", **arrays)
    assert data.load("digits", file=tmp_path / "a.npz").x_train[:, 0].abs().max() == 0


@pytest.mark.parametrize("shape", [(-1, 8, 8), (-1, 8, 8, 1), (-1, 1, 8, 8)])
def test_image_layouts_agree(tmp_path: Path, images, shape) -> None:
    arrays = {key: value.reshape(shape) if key[0] == "x" else value for key, value in images.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    loaded = data.load("mnist", file=tmp_path / "a.npz")
    scaled = images["x_train"] / 255
    expected = torch.tensor((scaled - scaled.mean()) / scaled.std()).float()[:, None]
    torch.testing.assert_close(loaded.x_train, expected)


@pytest.mark.parametrize("problem", ["mnist-cnn", "mnist-fcn"])
def test_training_on_uint8_images_learns(tmp_path: Path, images, problem: str) -> None:
    np.savez("a.npz", **images)
    command = ["train", problem, "--data", "a.npz", "--optimizer.name", "adam", "--optimizer.lr", "0.01"]
    assert main([*command, "--epochs", "20", "--batch-size", "15", "--out", "run", "--quiet"]) == 0
    assert json.loads(Path("run/summary.json").read_text())["test_accuracy"] > 0.9


def spoil(**changes):
    """A change of the arrays, each key mapped to a function of the good array (None: remove it)."""

    def change(arrays):
        for key, function in changes.items():
            value = arrays.pop(key)
            if function is not None:
                arrays[key] = function(value)
        return arrays

    return change


def poke(index, value):
    """Sets one element."""

    def change(array):
        array[index] = value
        return array

    return change


BAD = {
    "missing keys": (spoil(y_test=None, x_test=None), "has no array x_test and no y_test (it holds x_train, y_train)"),
    "lengths": (spoil(y_train=lambda y: y[:-1]), "x_train has 90 samples, y_train has 89"),
    "feature shapes": (spoil(x_test=lambda x: x[:, :5]), "a sample of x_train has shape (6,), one of x_test (5,)"),
    "no features": (spoil(x_train=lambda x: x[:, 0]), "x_train has shape (90,)"),
    "no samples": (spoil(x_train=lambda x: x[:0], y_train=lambda y: y[:0]), "x_train has shape (0, 6)"),
    "text": (spoil(x_test=lambda x: x.astype(str)), "x_test has type <U"),
    "nan": (spoil(x_train=poke((4, 2), np.nan)), "1 values that are not finite, the first is nan at index (4, 2)"),
    "float labels": (spoil(y_train=lambda y: y / 1), "y_train has type float64"),
    "one-hot labels": (spoil(y_train=lambda y: np.eye(3, dtype=int)[y]), "y_train has shape (90, 3)"),
    "negative label": (spoil(y_test=poke(0, -1)), "y_test holds the label -1"),
    "unknown label": (spoil(y_test=poke(0, 3)), "y_test holds the label 3, but y_train only labels 0 to 2"),
    "huge label": (spoil(y_train=poke(0, 5000)), "y_train holds the label 5000 for 90 samples"),
    "one class": (spoil(y_train=lambda y: 0 * y), "y_train holds the label 0 only"),
    "objects": (spoil(x_train=lambda x: x.astype(object)), "x_train holds Python objects"),
}


@pytest.mark.parametrize(("change", "sentence"), BAD.values(), ids=BAD)
def test_a_bad_array_gets_its_sentence(tmp_path: Path, arrays, change, sentence: str) -> None:
    path = tmp_path / "bad.npz"
    np.savez(path, **change(arrays))
    with pytest.raises(LabError) as error:
        reader.read(path)
    assert sentence in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "Cannot read"),
        (b"", "not a readable npz"),
        (b"not a zip file at all", "not a readable npz"),
        (b"PK\x03\x04 cut off", "not a readable npz"),
    ],
)
def test_a_file_that_is_no_npz_gets_its_sentence(tmp_path: Path, capsys, content, sentence: str) -> None:
    path = tmp_path / "bad.npz"
    if content is not None:
        path.write_bytes(content)
    assert main(["train", "digits-fcn", "--data", str(path)]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1


def test_a_truncated_npz_gets_its_sentence(npz: Path) -> None:
    whole = npz.read_bytes()
    npz.write_bytes(whole[:3000] + b"\0" * 200 + whole[3200:])
    with pytest.raises(LabError, match="not a readable npz"):
        reader.read(npz)


def test_a_bare_array_gets_its_sentence(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(LabError, match="one bare array"):
        reader.read(tmp_path / "one.npy")


def test_features_do_not_fit_a_convolutional_network(npz: Path, capsys) -> None:
    assert main(["train", "mnist-cnn", "--data", str(npz)]) == 2
    assert "needs images" in capsys.readouterr().err
