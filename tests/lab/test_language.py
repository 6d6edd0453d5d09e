"""Texts: their windows, the transformer that reads them, and the task."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pooch
import pytest
import requests
import torch

from ocnopt import OCNOpt
from ocnopt_lab import data
from ocnopt_lab.cli import main
from ocnopt_lab.data import download
from ocnopt_lab.data.text import WINDOW, windows
from ocnopt_lab.errors import LabError
from ocnopt_lab.problems import PROBLEMS
from ocnopt_lab.runs.trainer import train_step

PROBLEM = PROBLEMS["char-transformer"]
TEXT = np.frombuffer(("the cat sat on the mat; " * 120).encode(), np.uint8)


def folder_with(text: np.ndarray, path: Path) -> Path:
    np.savez(path / "tinyshakespeare.npz", text=text)
    return path


def test_windows_follow_one_another_and_targets_are_one_later() -> None:
    letters = sorted(set(TEXT.tolist()))
    numbers = np.array([letters.index(byte) for byte in TEXT.tolist()])
    arrays = windows(TEXT)
    cut = int(0.9 * len(TEXT))
    for x, y, part in ((arrays.x_train, arrays.y_train, numbers[:cut]), (arrays.x_test, arrays.y_test, numbers[cut:])):
        samples = (len(part) - 1) // WINDOW
        assert x.shape == y.shape == (samples, WINDOW)
        assert x.ravel().tolist() == part[: samples * WINDOW].tolist()
        assert y.ravel().tolist() == part[1 : samples * WINDOW + 1].tolist()


def test_a_text_in_the_data_folder_is_read(tmp_path: Path) -> None:
    found = data.load("tinyshakespeare", data_dir=folder_with(TEXT, tmp_path), recipe=PROBLEM.recipe)
    assert found.in_shape == (WINDOW,) and found.outputs == len(set(TEXT.tolist()))
    assert found.x_train.dtype == found.y_train.dtype == torch.int64
    assert torch.equal(found.x_train[0, 1:], found.y_train[0, :-1])


def test_the_published_text_is_downloaded_and_checked(tmp_path: Path, monkeypatch) -> None:
    asked = []

    def retrieve(url: str, known: str, *_: object, **__: object) -> str:
        asked.append((url, known))
        (tmp_path / "input.txt").write_bytes(TEXT.tobytes())
        return str(tmp_path / "input.txt")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    found = data.load("tinyshakespeare", recipe=PROBLEM.recipe)
    assert found.outputs == len(set(TEXT.tolist()))
    ((url, known),) = asked
    assert url.startswith("https://") and url.endswith("input.txt") and known == download._TEXT_SUM


def test_without_a_text_and_a_network_one_sentence_says_so(monkeypatch) -> None:
    def offline(*_: object, **__: object) -> str:
        raise requests.exceptions.ConnectionError

    monkeypatch.setattr(pooch, "retrieve", offline)
    with pytest.raises(LabError, match=r"tinyshakespeare\.npz.*or go online"):
        data.load("tinyshakespeare", recipe=PROBLEM.recipe)


def test_no_position_sees_what_follows() -> None:
    torch.manual_seed(0)
    model = PROBLEM.model((WINDOW,), 11)
    x = torch.randint(11, (2, WINDOW))
    changed = x.clone()
    changed[:, 40:] = (changed[:, 40:] + 1) % 11
    before, after = model(x), model(changed)
    assert before.shape == (2, WINDOW, 11)
    assert torch.allclose(before[:, :40], after[:, :40], atol=1e-5)
    assert (before[:, 40:] - after[:, 40:]).abs().amax() > 0.01


def test_all_its_layers_take_part_in_the_feedback(tmp_path: Path) -> None:
    found = data.load("tinyshakespeare", data_dir=folder_with(TEXT, tmp_path), recipe=PROBLEM.recipe)
    torch.manual_seed(0)
    model = PROBLEM.model(found.in_shape, found.outputs)
    optimizer = OCNOpt(model)
    x, y = found.x_train[:8], found.y_train[:8]
    losses = []
    for _ in range(12):
        loss, _ = train_step(optimizer, lambda: ((out := model(x)), found.task.loss(out, y))[::-1])
        losses.append(loss.item())
    rows = optimizer.coverage()
    assert all(row.feedback for row in rows), [row for row in rows if not row.feedback]
    assert losses[0] == pytest.approx(math.log(found.outputs), rel=0.15) and losses[-1] < 0.6 * losses[0]


def test_characters_that_are_met_are_counted_per_sample() -> None:
    target = torch.tensor([[0, 1], [1, 1]])
    logits = 9.0 * torch.nn.functional.one_hot(torch.tensor([[0, 1], [0, 1]]), 3).float()
    counted = PROBLEM.task.counted(logits, target)
    assert PROBLEM.task.scores(1.0, counted / 2) == {"loss": 1.0, "accuracy": 0.75}
    losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), target)
    assert torch.allclose(PROBLEM.task.loss(logits, target), losses)


def test_it_trains_from_the_command_line(tmp_path: Path, npz: Path, capsys) -> None:
    folder_with(TEXT, tmp_path)
    short = ["--epochs", "1", "--train-samples", "16", "--quiet", "--out", "run"]
    assert main(["train", "char-transformer", "--data-dir", str(tmp_path), *short]) == 0
    assert main(["train", "char-transformer", "--data", str(npz), "--quiet"]) == 2
    assert "reads the text it is named for" in capsys.readouterr().err
    with pytest.raises(LabError, match=r"reads windows of characters; one sample has shape \(1, 8, 8\)"):
        PROBLEM.model((1, 8, 8), 3)
