"""A run that was stopped goes on bit for bit; a damaged checkpoint or a full disk loses nothing."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from repeatable import rows

from ocnopt_lab.cli import main
from ocnopt_lab.errors import LabError
from ocnopt_lab.runs import checkpoint
from ocnopt_lab.runs.display import Display

EPOCHS, STEPS_PER_EPOCH = 3, 6


MEASURED = ("--optimizer.search", "levenberg-marquardt", "--optimizer.value", "coupled", "--optimizer.curvature", "sgd")
"""A search that calls the loss again in every step."""


def train(npz: Path, optimizer: str, out: str, *options: str) -> int:
    command = ["train", "digits-fcn", "--data", str(npz), "--optimizer.name", optimizer, "--out", out, "--quiet"]
    return main([*command, *options, "--epochs", str(EPOCHS), "--batch-size", "16"])


def state(out: str) -> dict:
    return torch.load(Path(out) / checkpoint.NAME, weights_only=True)


def interrupt_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C right after the step with this number."""
    shown = Display.step

    def show(self, counters) -> None:
        shown(self, counters)
        if counters.step == step:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Display, "step", show)


@pytest.mark.parametrize(
    "optimizer", [("adam",), ("ocnopt",), ("ocnopt", *MEASURED)], ids=["adam", "ocnopt", "measured"]
)
@pytest.mark.parametrize("step", [STEPS_PER_EPOCH + 2, 2 * STEPS_PER_EPOCH], ids=["inside an epoch", "at its end"])
def test_resume_equals_uninterrupted(npz: Path, monkeypatch, capsys, optimizer: tuple[str, ...], step: int) -> None:
    name, *options = optimizer
    assert train(npz, name, "whole", *options) == 0
    with monkeypatch.context() as patch:
        interrupt_at(step, patch)
        assert train(npz, name, "parts", *options) == 130
    assert "ocnopt train --resume parts" in capsys.readouterr().err
    assert state("parts")["counters"]["step"] == step
    assert main(["train", "--resume", "parts", "--quiet"]) == 0
    whole, parts = state("whole"), state("parts")
    assert parts["counters"]["step"] == EPOCHS * STEPS_PER_EPOCH
    assert all(torch.equal(parts["model"][key], value) for key, value in whole["model"].items())
    assert rows("parts") == rows("whole")


def test_ctrl_c_in_a_terminal_keeps_a_checkpoint() -> None:
    command = [sys.executable, "-m", "ocnopt_lab", "train", "digits-fcn", "--optimizer.name", "sgd"]
    child = subprocess.Popen([*command, "--epochs", "100000", "--out", "run"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (Path("run") / checkpoint.NAME).exists():
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "The last checkpoint is kept: run/checkpoint.pt." in errors and "Traceback" not in errors
    assert state("run")["counters"]["step"] > 0


def test_a_damaged_checkpoint_falls_back_to_the_one_before(npz: Path, capsys) -> None:
    assert train(npz, "adam", "run") == 0
    whole = state("run")["model"]
    path = Path("run") / checkpoint.NAME
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF  # one flipped byte inside a tensor
    path.write_bytes(content)
    assert main(["train", "--resume", "run", "--quiet"]) == 0
    assert "going on from the one before, run/checkpoint.prev.pt" in capsys.readouterr().out.replace("\n", " ")
    assert all(torch.equal(state("run")["model"][key], value) for key, value in whole.items())


def test_no_readable_checkpoint_is_one_sentence(npz: Path, capsys) -> None:
    assert train(npz, "adam", "run") == 0
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        (Path("run") / name).write_bytes(b"damaged")
    assert main(["train", "--resume", "run"]) == 1
    assert "run/checkpoint.pt and run/checkpoint.prev.pt cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--resume", "nowhere"], "nowhere is not a run folder"),
        (["digits-fcn", "--resume", "nowhere"], "leave out all others"),
        (["--resume", "nowhere", "--epochs", "9"], "leave out all others"),
    ],
)
def test_a_wrong_resume_is_one_sentence(capsys, arguments: list[str], sentence: str) -> None:
    assert main(["train", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_checkpoint_of_another_model_is_one_sentence(npz: Path, capsys) -> None:
    assert train(npz, "adam", "run") == 0
    config = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps({**config, "problem": "wine-fcn"}))
    assert main(["train", "--resume", "run"]) == 2
    assert "does not belong to its config.json" in capsys.readouterr().err


def test_a_full_disk_ends_the_run_in_one_sentence(npz: Path, monkeypatch, capsys) -> None:
    synced: list[int] = []

    def full_after_the_first(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_after_the_first)
    assert train(npz, "adam", "run") == 1
    printed = capsys.readouterr().err
    assert "No space left on device. The last checkpoint is kept: run/checkpoint.pt." in printed
    assert printed.count("\n") == 1
    assert state("run")["counters"]["epoch"] == 1
    assert not list(Path("run").glob("*.tmp"))


def test_a_write_cut_short_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"x": torch.zeros(3)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(LabError, match="File too large"):
            checkpoint.save(tmp_path, {"x": torch.ones(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    found, warning = checkpoint.load(tmp_path)
    assert torch.equal(found["x"], torch.zeros(3)) and warning is None


def test_an_unwritable_folder_is_one_sentence(npz: Path, capsys) -> None:
    Path("taken").write_text("a file where the folder should be")
    assert train(npz, "adam", "taken/run") == 1
    assert "Cannot write taken/run: Not a directory." in capsys.readouterr().err


def test_a_run_is_never_overwritten(npz: Path, capsys) -> None:
    assert train(npz, "adam", "run") == 0
    assert train(npz, "adam", "run") == 2
    assert "already holds a run" in capsys.readouterr().err


def test_a_loss_that_stays_not_finite_stops_the_run(npz: Path, capsys) -> None:
    command = ["train", "digits-fcn", "--data", str(npz), "--optimizer.name", "sgd", "--optimizer.lr", "3e38"]
    assert main([*command, "--epochs", "100", "--batch-size", "16", "--out", "run", "--quiet"]) == 1
    assert "diverged" in capsys.readouterr().err
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["status"] == "diverged" and summary["nonfinite_steps"] >= 50
    losses = [row["loss"] for row in rows("run") if row["kind"] == "steps"]
    assert None in losses and all(loss is None or math.isfinite(loss) for loss in losses)
