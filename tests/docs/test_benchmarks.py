"""The scripts behind the benchmark page: resumable runs, verdicts from the numbers, text between markers."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from unittest import mock

import coalitions
import gpu
import profile_page
import pytest
from coalitions import Coalitions, compared
from disturbance import Disturbance
from gpu_steps import BASELINE, Row
from pages import insert
from rich.console import Console
from tables import page, verdict
from three_epochs import ThreeEpochs

from ocnopt_lab.errors import LabError
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.studies.runner import Estimate, Run
from ocnopt_lab.studies.summaries import Result

ENVIRONMENT = {"cpu": "x", "cores": 2, "threads": 1, "system": "Linux-6", "python": "3", "torch": "2", "ocnopt": "0"}


def result(method: str, seed: int, loss: float, accuracy: float) -> Result:
    return Result("p", method, seed, loss, accuracy, 1.0, 0.01, math.isinf(loss), ENVIRONMENT)


def results(ours: list[tuple[float, float]], *rivals: list[tuple[float, float]]) -> list[Result]:
    named = {"ocnopt": ours, **{f"adam-{j}": rival for j, rival in enumerate(rivals)}}
    return [result(name, seed, *run) for name, runs in named.items() for seed, run in enumerate(runs)]


def test_verdict_compares_medians_with_the_best_of_each_kind() -> None:
    """The lowest loss and the highest accuracy may come from different rates."""
    found = verdict(results([(0.3, 0.9)] * 3, [(0.4, 0.8)] * 3, [(0.5, 0.95)] * 3), "p", 3)
    assert found is not None and found.loss_below and not found.score_not_worse
    assert (found.rival, found.rival_loss, found.rival_score) == ("adam-0", 0.4, 0.95)


def test_a_diverged_run_counts_as_failure() -> None:
    runs = results([(0.3, 0.9), (math.inf, 0.1), (math.inf, 0.1)], [(0.4, 0.8)] * 3)
    found = verdict(runs, "p", 3)
    assert found is not None and not found.loss_below
    assert "∞" in page(runs, 3, "command", 1) and "**not below**" in page(runs, 3, "command", 1)


def test_no_verdict_before_all_runs_are_there() -> None:
    assert verdict(results([(0.3, 0.9)] * 2, [(0.4, 0.8)] * 3), "p", 3) is None


def test_text_between_markers_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("before\n<!-- begin:x -->\nold\n<!-- end:x -->\nafter\n")
    insert(file, "x", "new")
    once = file.read_text()
    insert(file, "x", "new")
    assert file.read_text() == once == "before\n<!-- begin:x -->\n\nnew\n\n<!-- end:x -->\nafter\n"
    with pytest.raises(LabError, match="must hold"):
        insert(file, "y", "new")


def test_profile_is_put_into_the_page_without_its_title(tmp_path: Path) -> None:
    (tmp_path / "profile.md").write_text("# a: time\n\n| x |\n")
    page = tmp_path / "page.md"
    page.write_text("<!-- begin:profile -->\n<!-- end:profile -->\n")
    put = profile_page.ProfilePage((tmp_path, tmp_path / "not yet"), page, tmp_path / "images")
    assert put.text(tmp_path) == "**a: time**\n\n| x |"
    (tmp_path / "growth.png").write_bytes(b"picture")
    assert put.put() == 0
    picture = f"images/growth-{tmp_path.name}.png"
    assert f"**a: time**\n\n![Time and memory of a step]({picture})\n\n| x |" in page.read_text()
    assert (tmp_path / picture).read_bytes() == b"picture"
    with pytest.raises(LabError, match="run ocnopt profile first"):
        replace(put, runs=(tmp_path / "not yet",)).put()


def test_all_methods_of_a_seed_come_before_the_next_seed() -> None:
    plan = ThreeEpochs(problems=("wine-fcn", "digits-fcn"), seeds=(0, 1), adam_lrs=(1e-2,)).plan()
    assert [run.seed for run in plan] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [run.method for run in plan] == ["ocnopt", "adam-0.01"] * 4


def test_runs_are_done_once(apart: Path) -> None:
    (apart / "page.md").write_text("<!-- begin:three-epochs -->\n<!-- end:three-epochs -->\n")
    bench = ThreeEpochs(
        problems=("wine-fcn",), seeds=(0,), adam_lrs=(1e-2,), epochs=1, jobs=2, out=Path("r"), write=Path("page.md")
    )
    assert bench.run(Console(quiet=True)) == 0
    assert "Medians over 1 seed" in (apart / "page.md").read_text()
    times = {path: path.stat().st_mtime_ns for path in Path("r").glob("*/summary.json")}
    assert len(times) == 2 and bench.run(Console(quiet=True)) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert len(json.loads(Path("r/results.json").read_text())["runs"]) == 2
    with pytest.raises(LabError, match="other options"):
        ThreeEpochs(problems=("wine-fcn",), seeds=(0,), adam_lrs=(1e-2,), epochs=2, out=Path("r")).run(
            Console(quiet=True)
        )


def test_the_command_names_what_decides_numbers_only() -> None:
    bench = ThreeEpochs(problems=("wine-fcn",), seeds=(4,), out=Path("elsewhere"), data_dir=Path("data"))
    assert bench.command() == "python benchmarks/three_epochs.py --problems wine-fcn --seeds 4"


def test_time_left_uses_the_nearest_run_that_is_known() -> None:
    one, two = (Run(name, RunConfig("p", 3, 8), Path("nowhere")) for name in ("ocnopt", "adam-1"))
    estimate = Estimate(jobs=2)
    assert estimate.left([one], {}) is None
    estimate.finished(one, 30.0)
    estimate.finished(two, 10.0)
    assert estimate.left([one, two], {}) == 20.0


# games


def test_games_are_compared_seed_by_seed() -> None:
    def runs(name: str, losses: list[float]) -> list[Result]:
        return [result(name, seed, loss, 0.9) for seed, loss in enumerate(losses)]

    ours, nash = [0.1, 0.2, 0.3, 0.1, 0.2], [0.2, 0.3, 0.4, 0.2, 0.3]
    methods = {"cooperative-last": runs("a", ours), "nash-last": runs("b", nash)}
    assert "-0.1000" in compared(("cooperative-last", "nash-last"), methods)
    assert "**lower**" in compared(("cooperative-last", "nash-last"), methods)
    assert "**higher**" in compared(("nash-last", "cooperative-last"), methods)
    mixed = {"a": runs("a", [0.1, 0.4, 0.2, 0.3, 0.2]), "b": runs("b", [0.2, 0.3, 0.3, 0.2, 0.2])}
    assert "**no different**" in compared(("a", "b"), mixed)
    assert compared(("a", "b"), {"a": runs("a", ours), "b": runs("b", [math.inf] * 5)}) == ""


def test_studies_of_games_leave_tables_and_a_picture(apart: Path) -> None:
    bench = Coalitions(problems=("digits-fcn",), seeds=(0,), adam_lrs=(1e-2,), epochs=1, jobs=2, out=Path("r"))
    bench = replace(bench, eval_samples=100, train_samples=200)
    with mock.patch.dict(coalitions.GAMES, clear=True):
        assert bench.run(Console(quiet=True)) == 0
    text = (apart / "r" / "results.md").read_text()
    assert "| no-game |" in text and "on 100 of each set" in text
    assert (apart / "r" / "curves.png").stat().st_size > 10_000


def test_studies_of_disturbances_have_a_line_per_rate() -> None:
    bench = Disturbance(lrs=(0.1, 0.2))
    methods = {name: [result(name, 0, 0.5, 0.9)] for name in bench.methods()}
    assert bench.table(methods).splitlines()[2] == "| 0.1 | 0.5000 (0.5000) | 0.5000 (0.5000) |"


def test_times_of_a_device_are_told_as_ratios_to_adamw() -> None:
    rows = [Row(BASELINE, [4.0, 2.0, 3.0], 100.0, 0.0), Row("ours", [6.0, 4.0, 4.5], 110.0, 5.0)]
    text = gpu.table("resnet18", "bfloat16", rows)
    assert "| ours | 4.50 | 1.50 | 110 | 1.10 | 5.0 |" in text
    assert text.startswith("**ResNet-18, 512 images of 3x32x32, bfloat16**")


@pytest.mark.skipif(gpu.torch.cuda.is_available(), reason="of machines without a CUDA device")
def test_without_a_device_nothing_is_timed(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no CUDA device"):
        gpu.Gpu(out=tmp_path).run(Console())
