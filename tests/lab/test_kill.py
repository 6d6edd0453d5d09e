"""kill -9 at any moment of a run or of a checkpoint write: resumed, it ends as if nothing had happened, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from repeatable import rows

from ocnopt_lab.cli import main
from ocnopt_lab.runs import checkpoint

EPOCHS = 3
COMMAND = ["train", "digits-fcn", "--epochs", str(EPOCHS), "--train-samples", "320", "--quiet"]
STRIKE = """
import os, pathlib, signal, sys
from ocnopt_lab import cli
from ocnopt_lab.runs.trainer import Trainer

where, count = sys.argv[1], [0]
places = {"step": (Trainer, "_step"), "sync": (os, "fsync"), "rename": (pathlib.Path, "replace")}
owner, name = places[where.split("-")[0]]
sound = getattr(owner, name)

def strike(*args):
    count[0] += 1
    if count[0] == int(where.split("-")[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return sound(*args)

setattr(owner, name, strike)
sys.exit(cli.main(sys.argv[2:]))
"""
"""A run that kills itself before its n-th step, or in the middle of a checkpoint write: at its n-th fsync or rename."""


def weights(out: str) -> dict[str, torch.Tensor]:
    return torch.load(Path(out) / checkpoint.NAME, weights_only=True)["model"]


def resumed_equals_whole() -> None:
    assert main(["train", "--resume", "killed", "--quiet"]) == 0
    assert main([*COMMAND, "--out", "whole", "--threads", "1"]) == 0
    killed = weights("killed")
    assert all(torch.equal(killed[name], value) for name, value in weights("whole").items())
    assert rows("killed") == rows("whole")


@pytest.mark.parametrize("where", ["step-17", "sync-2", "rename-2", "rename-3"])
def test_killed(where: str) -> None:
    """Inside of an epoch, before the second checkpoint is on disk, before the first is kept, between the renames."""
    command = [sys.executable, "-c", STRIKE, where, *COMMAND, "--out", "killed", "--threads", "1"]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    assert checkpoint.newest(Path("killed")) is not None
    resumed_equals_whole()
