"""Where runs train, and studies whose runs share one process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from study_cases import SMALL

from ocnopt_lab.cli import main
from ocnopt_lab.commands.compare import Compare
from ocnopt_lab.data import CropAndFlip, load
from ocnopt_lab.errors import LabError
from ocnopt_lab.runs.memory import DeviceMemory, StepMemory, memory_on
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.studies.summaries import machine

QUIET = Console(quiet=True)
STUDY = Compare(**{**SMALL, "epochs": 1}, optimizers="ocnopt,adam", sweep="none", seeds=1)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="There is no CUDA device.")


@pytest.mark.parametrize("device", ["quantum", "cuda:99"])
def test_a_device_that_there_is_not_is_one_sentence(device: str, capsys) -> None:
    assert main(["train", "wine-fcn", "--device", device]) == 2
    error = capsys.readouterr().err
    assert main(["compare", "wine-fcn", "--device", device]) == 2 and error[:50] == capsys.readouterr().err[:50]
    assert f"--device is '{device}', and torch cannot use it" in error and error.count("\n") == 1


def test_runs_of_a_device_can_be_looked_at_without_it() -> None:
    (run, *_) = Compare(problems=("wine-fcn",), device="cuda:99").plan()
    assert run.config.device == "cuda:99" and run.summary() is None


def test_data_move_as_a_whole() -> None:
    found = load("wine").to(torch.device("meta"))
    assert {
        found.x_train.device.type,
        found.y_train.device.type,
        found.x_test.device.type,
        found.y_test.device.type,
    } == {"meta"}


def test_variants_are_made_where_the_images_are() -> None:
    x = torch.randn(4, 3, 8, 8, device="meta")
    assert CropAndFlip().draw(x, torch.Generator().manual_seed(0)).device.type == "meta"


def test_memory_is_measured_where_the_tensors_are() -> None:
    assert isinstance(memory_on(torch.device("cpu")), StepMemory)
    if torch.cuda.is_available():
        assert isinstance(memory_on(torch.device("cuda")), DeviceMemory)


def test_a_page_names_the_device() -> None:
    env = {"cpu": "C", "cores": 2, "threads": 1, "system": "Linux-6", "python": "3", "torch": "2", "ocnopt": "0"}
    assert machine({**env, "device": "D"}) == f"D; {machine(env)}"


@needs_cuda
def test_a_run_on_a_device_begins_where_the_processor_begins(tmp_path: Path) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        assert main(["train", "digits-fcn", "--epochs", "2", "--device", device, "--quiet", "--out", str(out)]) == 0
        rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses[device] = [row["train_loss"] for row in rows if row["kind"] == "epoch"]
    assert losses["cuda"][0] == pytest.approx(losses["cpu"][0], rel=1e-4)
    assert losses["cuda"][-1] == pytest.approx(losses["cpu"][-1], rel=0.2)


def test_runs_in_one_process_have_the_numbers_of_their_own(tmp_path: Path) -> None:
    found = []
    for jobs in (0, 1):
        study = replace(STUDY, optimizers="ocnopt", jobs=jobs, out=tmp_path / f"{jobs}")
        assert study.run(QUIET) == 0
        runs = json.loads((study.folder / "results.json").read_text())["runs"]
        found.append({run["method"]: (run["train_loss"], run["test_score"]) for run in runs})
    assert found[0] == found[1] and len(found[0]) == 1


def test_data_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr("ocnopt_lab.data.load", lambda *args: reads.append(args) or load(*args))
    assert replace(STUDY, jobs=0, out=tmp_path / "s").run(QUIET) == 0 and len(reads) == 1


def test_a_run_that_fails_does_not_end_the_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Run.opened

    def opened(run: Run, load) -> object:
        if run.method == "ocnopt":
            raise LabError("The data are gone.")
        return real(run, load)

    monkeypatch.setattr(Run, "opened", opened)
    study = replace(STUDY, jobs=0, out=tmp_path / "s")
    with pytest.raises(LabError, match=r"1 of 2 runs failed\. The data are gone\."):
        study.run(QUIET)
    assert [run.method for run in study.plan() if run.summary()] == ["adam"]
