"""`ocnopt policy`, and runs that measure their gains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from repeatable import rows

from ocnopt_lab.cli import main
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.policies.history import gains_of, recorded
from ocnopt_lab.policies.pictures import seen, signed
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.session import build_trainer
from ocnopt_lab.runs.trainer import Trainer

LAYERS = ["1", "3", "5", "7", "9"]
SHORT = ["--quiet", "--train-samples", "64", "--eval-samples", "50"]


def train(*arguments: str) -> int:
    return main(["train", "digits-fcn", *SHORT, *arguments])


def trainer_of(problem: str = "digits-fcn", samples: int = 64, **options: object) -> Trainer:
    optimizer = OptimizerConfig("ocnopt", **options)
    return build_trainer(RunConfig(problem, 2, 32, optimizer, train_samples=samples))


def test_pictures_and_numbers_of_a_run(capsys) -> None:
    assert train("--epochs", "3", "--gains", "32", "--out", "run") == 0
    assert main(["policy", "run", "--samples", "32", "--shown", "3"]) == 0
    printed = capsys.readouterr().out
    for name in ("policy.png", "policy_states.png", "policy_gains.png"):
        assert f"Picture: run/{name}" in printed
        assert Image.open(Path("run") / name).convert("L").getextrema()[0] < 128
    found = json.loads(Path("run/policy.json").read_text())
    assert list(found["gains"]) == LAYERS and found["left_out"] == [] and min(found["gains"].values()) > 0
    assert [moment["epoch"] for moment in found["through_training"]] == [0, 1, 2, 3]
    last = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert last["gains"] == pytest.approx(found["gains"], rel=1e-4)  # the same weights, measured by two processes


def test_without_measured_gains_the_kept_checkpoints_show_them() -> None:
    assert train("--epochs", "3", "--out", "run") == 0
    assert (
        main(["policy", "run", "--samples", "16", "--terminal", "gauss-newton", "--shown", "2", "--out", "exact"]) == 0
    )
    found = json.loads(Path("exact/policy.json").read_text())
    assert found["terminal"] == "gauss-newton" and [m["epoch"] for m in found["through_training"]] == [2, 3]
    assert not Path("run/policy.png").exists()


def test_features_have_no_picture_in_image_space(npz: Path) -> None:
    assert main(["train", "wine-fcn", "--data", str(npz), "--epochs", "1", "--quiet", "--out", "run"]) == 0
    assert main(["policy", "run", "--shown", "2"]) == 0
    assert Path("run/policy_states.png").exists() and not Path("run/policy.png").exists()


def test_a_run_that_measures_its_gains_is_the_same_run() -> None:
    assert train("--epochs", "2", "--out", "plain") == 0
    assert train("--epochs", "2", "--gains", "16", "--out", "measured") == 0
    measured = rows("measured")
    assert all(list(row.pop("gains")) == LAYERS for row in measured if row["kind"] == "epoch")
    assert measured == rows("plain")
    weights = [torch.load(f"{run}/checkpoint.pt")["model"] for run in ("plain", "measured")]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))


@pytest.mark.parametrize(
    "options",
    [
        {"curvature": "adam"},
        {"curvature": "kfac", "search": "fixed"},
        {"value": "coupled", "search": "levenberg-marquardt"},
        {"terminal": "gauss-newton"},
    ],
    ids=str,
)
def test_every_kind_of_policy_can_be_looked_at(options: dict[str, str]) -> None:
    trainer = trainer_of(**options)
    list(trainer.epoch())
    before = [p.detach().clone() for p in trainer.model.parameters()]
    gains = gains_of(recorded(trainer, 16))
    assert list(gains) == LAYERS and all(0 < gain < 1e4 for gain in gains.values())
    assert all(torch.equal(p, q) for p, q in zip(before, trainer.model.parameters(), strict=True))


def test_a_direction_is_pulled_back_through_the_layers_in_front() -> None:
    trainer = trainer_of()
    found = recorded(trainer, 8)
    x, first, second = found.batch.x, trainer.model[1], trainer.model[3]
    direction = torch.randn(8, second.in_features)
    inner = direction * (1 - first(x.flatten(1)).tanh().square())
    expected = (inner @ first.weight).view_as(x)
    assert torch.allclose(found.pulled_back(x, "3", direction), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["adam"], "The optimizer adam has no feedback policy; train with --optimizer.name ocnopt."),
        (["nothing"], "nothing is not a run folder"),
        (["adam", "--samples", "0"], "--samples is 0; it must be at least 1."),
    ],
)
def test_what_has_no_policy_is_refused_in_a_sentence(capsys, arguments: list[str], sentence: str) -> None:
    assert train("--epochs", "1", "--optimizer.name", "adam", "--out", "adam") == 0
    assert main(["policy", *arguments]) != 0
    assert sentence in capsys.readouterr().err


def test_without_feedback_there_is_no_policy(capsys) -> None:
    assert train("--epochs", "1", "--optimizer.feedback", "0", "--out", "open") == 0
    assert main(["policy", "open"]) != 0
    assert "is its feedback 0" in capsys.readouterr().err


def test_gains_of_other_optimizers_are_refused_before_the_run(capsys) -> None:
    assert train("--epochs", "1", "--optimizer.name", "adam", "--gains", "8") == 2
    assert "--gains looks at feedback policies, and adam has none" in capsys.readouterr().err


def test_a_folder_without_a_checkpoint_has_no_weights_to_look_at(capsys) -> None:
    assert train("--epochs", "1", "--out", "run") == 0
    Path("run/checkpoint.pt").write_bytes(b"damaged")
    assert main(["policy", "run"]) != 0
    assert "run holds no checkpoint that can be read" in capsys.readouterr().err


def test_maps_of_directions() -> None:
    channels = torch.zeros(8, 2, 2)
    channels[5, 0, 1], channels[2, 1, 1] = -4.0, 1.0
    assert signed(channels).tolist() == [[0.0, -1.0], [0.0, 0.0]]
    assert signed(torch.tensor([[[1.0]], [[2.0]], [[-5.0]]])).tolist() == [[-1.0]]
    folded = signed(torch.arange(7.0))
    assert folded.shape == (2, 4) and np.isnan(folded[1, 3]) and folded[1, 2] == 1
    assert not signed(torch.zeros(4)).any()
    assert seen(torch.tensor([[[1.0, 3.0]]])).tolist() == [[0.0, 1.0]] and not seen(torch.ones(1, 2, 2)).any()
    assert seen(torch.rand(3, 4, 5)).shape == (4, 5, 3)
