"""Random crops and flips: what they draw, and that a resumed run draws the same."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from repeatable import rows

from ocnopt_lab.cli import main
from ocnopt_lab.data import CropAndFlip
from ocnopt_lab.problems import PROBLEMS
from ocnopt_lab.runs.display import Display

AUGMENTED = {name for name, problem in PROBLEMS.items() if problem.augmentation}


def draw(x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return CropAndFlip().draw(x, torch.Generator().manual_seed(seed))


def variants(image: torch.Tensor, by: int) -> list[torch.Tensor]:
    """Every crop of the padded image (C, H, W) and its mirror image, by plain slices."""
    _, height, width = image.shape
    padded = torch.nn.functional.pad(image, (by, by, by, by))
    places = [(i, j) for i in range(2 * by + 1) for j in range(2 * by + 1)]
    crops = [padded[:, i : i + height, j : j + width] for i, j in places]
    return [*crops, *(crop.flip(2) for crop in crops)]


def test_every_variant_is_drawn_and_no_other() -> None:
    image = torch.randn(2, 8, 12)
    drawn = draw(image.expand(600, *image.shape))
    assert drawn.shape == (600, 2, 8, 12)
    possible = torch.stack(variants(image, by=1)).flatten(1)
    distance = torch.cdist(drawn.flatten(1), possible, compute_mode="donot_use_mm_for_euclid_dist")
    assert distance.amin(1).amax() == 0
    counts = torch.bincount(distance.argmin(1), minlength=len(possible))
    assert len(possible) == 18 and counts.amin() > 10  # 33 each are expected


def test_the_draws_are_those_of_the_generator_alone() -> None:
    x = torch.randn(5, 3, 32, 32)
    before, state = x.clone(), torch.get_rng_state()
    assert torch.equal(draw(x, 1), draw(x, 1)) and not torch.equal(draw(x, 1), draw(x, 2))
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(x, before)


def test_which_problems_have_it() -> None:
    kinds = {"cifar10-resnet-small", "cifar10-inception-small", "cifar10-resnet18", "fashion-mnist-resnet18"}
    assert kinds == AUGMENTED


@pytest.fixture
def pictures(tmp_path: Path, images) -> Path:
    np.savez(tmp_path / "pictures.npz", **images)
    return tmp_path / "pictures.npz"


def train(pictures: Path, out: str, problem: str = "cifar10-resnet-small") -> int:
    command = ["train", problem, "--data", str(pictures), "--optimizer.name", "adam", "--quiet", "--out", out]
    return main([*command, "--epochs", "2", "--batch-size", "32"])


def test_a_resumed_run_draws_the_same_variants(pictures: Path, monkeypatch) -> None:
    assert train(pictures, "whole") == 0
    shown = Display.step

    def show(self, counters) -> None:
        shown(self, counters)
        if counters.step == 4:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Display, "step", show)
        assert train(pictures, "parts") == 130
    assert main(["train", "--resume", "parts", "--quiet"]) == 0
    assert rows("parts") == rows("whole")


def test_runs_with_it_differ_from_runs_without(pictures: Path) -> None:
    assert train(pictures, "with") == 0 and train(pictures, "without", "resnet-small") == 0
    losses = [[row["train_loss"] for row in rows(out) if row["kind"] == "epoch"] for out in ("with", "without")]
    assert losses[0][0] == losses[1][0] and losses[0][1] != losses[1][1]
