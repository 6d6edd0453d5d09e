"""The commands as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ocnopt_lab.cli import main
from ocnopt_lab.commands import demo, profile
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.problems import PROBLEMS
from ocnopt_lab.profiling.variants import BASELINE, REFERENCE

RIVALS = {BASELINE: OptimizerConfig("adam"), "sgd": OptimizerConfig("sgd", momentum=0.8)}
PROFILED = {**RIVALS, REFERENCE: OptimizerConfig("adamw", foreach=True)}


def test_problems_are_listed(capsys) -> None:
    assert main(["problems"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in PROBLEMS)


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ocnopt ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["digits"], "There is no problem 'digits'; choose one of digits-fcn, "),
        ([], "Which problem?"),
        (["digits-fcn", "--epochs", "0"], "--epochs is 0; it must be at least 1."),
        (["digits-fcn", "--optimizer.name", "adam", "--optimizer.lr", "-1"], "adam: Invalid learning rate: -1.0"),
        (["digits-fcn", "--optimizer.name", "adam", "--optimizer.curvature", "kfac"], "adam has no option curvature"),
        (["digits-fcn", "--optimizer.curvature", "bogus"], "choose one of"),
    ],
)
def test_wrong_arguments_are_one_sentence(capsys, arguments: list[str], sentence: str) -> None:
    assert main(["train", *arguments]) == 2
    printed = capsys.readouterr().err
    assert sentence in printed and printed.count("\n") == 1
    assert not Path("runs").exists()


def test_a_run_on_digits_leaves_all_its_files() -> None:
    command = [sys.executable, "-m", "ocnopt_lab", "train", "digits-fcn", "--epochs", "2", "--out", "run"]
    child = subprocess.run([*command, "--optimizer.weight-decay", "1e-4"], capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert "Curves: run/curves.png" in child.stdout
    run = Path("run")
    config, summary = (json.loads((run / f"{name}.json").read_text()) for name in ("config", "summary"))
    assert config["optimizer"]["name"] == "ocnopt" and config["optimizer"]["weight_decay"] == 1e-4
    assert summary["status"] == "finished" and summary["step"] == 2 * 45
    assert summary["peak_memory_mb"] > summary["memory_growth_mb"] > 0
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in metrics if row["kind"] == "epoch"] == [0, 1, 2]
    assert metrics[-1]["train_loss"] < metrics[0]["train_loss"]
    with Image.open(run / "curves.png") as picture:
        picture.verify()
    assert (run / "checkpoint.pt").stat().st_size > 0


def test_the_demo_compares(monkeypatch, capsys) -> None:
    monkeypatch.setattr(demo, "_CONTENDERS", {"Adam": RIVALS[BASELINE], "SGD 0.8": RIVALS["sgd"]})
    assert main(["demo", "--quick", "--out", "demo"]) == 0
    printed = capsys.readouterr().out
    assert "SGD 0.8" in printed and "Curves: demo/curves.png" in printed and "Run folder: demo" in printed
    assert json.loads(Path("demo/sgd/config.json").read_text())["optimizer"]["momentum"] == 0.8
    with Image.open("demo/curves.png") as picture:
        picture.verify()


def test_the_profile_is_written(monkeypatch, capsys) -> None:
    monkeypatch.setattr(profile, "VARIANTS", PROFILED)
    options = ["--steps", "3", "--rounds", "4", "--phase-rounds", "1", "--warmup", "2", "--batch-sizes", "4"]
    assert main(["profile", "wine-fcn", *options, "--depths", "2", "--out", "prof"]) == 0
    written = json.loads(Path("prof/profile.json").read_text())
    assert written["settings"]["batch size"] == 8
    for name in PROFILED:
        variant = written["variants"][name]
        assert len(variant["block_seconds"]) == 4 and variant["memory"]["peak"] > 0
        assert variant["floor"]["traffic"] >= variant["floor"]["floor_traffic"] > 0
        assert {"forward", "backward", "move"} == variant["phases"].keys()
        assert variant["time"]["low"] <= variant["time"]["value"] <= variant["time"]["high"]
    assert written["variants"][BASELINE]["time"]["value"] == 1
    page = Path("prof/profile.md").read_text()
    assert "| sgd |" in page and "Growth with the batch size" in page and "Growth with the depth" in page
    assert written["growth"]["batch"]["sizes"] == [4, 8] and written["growth"]["depth"]["sizes"] == [1, 2]
    assert len(json.loads(Path("prof/sizes.json").read_text())["sizes"]) == 3
    with Image.open("prof/growth.png") as picture:
        picture.verify()


def test_a_profile_of_few_steps_counts_as_many(monkeypatch) -> None:
    """Steps 9 and 10, the second of which gathers statistics, in place of one such step in ten."""
    monkeypatch.setattr(profile, "VARIANTS", {**PROFILED, "ekfac": OptimizerConfig("ocnopt", feedback_every=1)})
    options = ["--steps", "1", "--rounds", "2", "--phase-rounds", "1", "--warmup", "4", "--threads", "1"]
    calls = {}
    for name, more in {"whole": [], "few": ["--phase-steps", "2"]}.items():
        assert main(["profile", "wine-fcn", *options, *more, "--out", name]) == 0
        variants = json.loads(Path(name, "profile.json").read_text())["variants"]
        calls[name] = {key: variants[key]["phases"] for key in (BASELINE, "ekfac")}
    whole, few = calls["whole"], calls["few"]
    assert few[BASELINE]["forward"]["calls"] == whole[BASELINE]["forward"]["calls"]
    assert few["ekfac"]["statistics"]["calls"] > 2 * whole["ekfac"]["statistics"]["calls"]


def test_a_problem_of_one_size_says_so(monkeypatch, capsys) -> None:
    monkeypatch.setattr(profile, "VARIANTS", PROFILED)
    assert main(["profile", "spiral", "--widths", "2"]) == 2
    assert "spiral is built at its own width and depth alone" in capsys.readouterr().err
    assert main(["profile", "wine-fcn", "--widths", "0"]) == 2
    assert "--widths must be more than 0." in capsys.readouterr().err
    assert main(["profile", "wine-fcn", "--rounds", "1"]) == 2
    assert "intervals need at least 2." in capsys.readouterr().err
