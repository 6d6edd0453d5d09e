"""The scripts under examples/, as they are: each learns what it is given, with feedback, and needs no network."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from trainer_cases import EXAMPLES, feedback_of

pytest.importorskip("sklearn", reason="The digits come with scikit-learn, of the extra 'lab'.")


class Reached(Exception):
    """Somebody has tried to reach another machine."""


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, an empty folder, and the random numbers that a new process has."""

    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise Reached(args)

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)


def test_plain_loop() -> None:
    from plain_loop import main

    optimizer, accuracy = main(["--epochs", "3"])
    assert accuracy > 0.92 and feedback_of(optimizer) == 1


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore::UserWarning:lightning")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_lightning_module(precision: str) -> None:
    pytest.importorskip("lightning", reason="Lightning comes with the extra 'trainers'.")
    from lightning_module import main

    trainer = main(["--epochs", "3", "--precision", precision])
    assert float(trainer.callback_metrics["test accuracy"]) > 0.92
    assert trainer.precision == precision and feedback_of(trainer.optimizers[0]) == 1


def test_hugging_face_trainer() -> None:
    pytest.importorskip("transformers", reason="transformers comes with the extra 'trainers'.")
    pytest.importorskip("accelerate", reason="The Trainer needs accelerate, of the extra 'trainers'.")
    from hugging_face_trainer import main

    trainer = main(["--epochs", "3"])
    first, *_, last = (entry["loss"] for entry in trainer.state.log_history if "loss" in entry)
    assert float(last) < 0.4 * float(first)
    (accuracy,) = (entry["eval_accuracy"] for entry in trainer.state.log_history if "eval_accuracy" in entry)
    assert accuracy > 0.9 and feedback_of(trainer.optimizer.optimizer) == 1


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_accelerate_loop(precision: str) -> None:
    accelerate = pytest.importorskip("accelerate", reason="accelerate comes with the extra 'trainers'.")
    from accelerate_loop import main

    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    assert main(["--epochs", "3", "--precision", precision]) > 0.92
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


def test_every_example_is_tested() -> None:
    """A script that nobody runs is not one to copy."""
    tested = {name.removeprefix("test_") for name in vars(sys.modules[__name__])}
    found = {path.stem for path in EXAMPLES.glob("*.py")}
    assert found - tested == {"distributed"}  # which the page on more than one process starts with torchrun
