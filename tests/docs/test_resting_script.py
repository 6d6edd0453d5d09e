"""benchmarks/resting.py: its runs, and the table of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from resting import VARIANTS, Resting
from rich.console import Console


def test_runs_are_made_once_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- begin:resting -->\n<!-- end:resting -->\n")
    study = Resting(("digits-fcn",), (32, 64), (0, 1), steps=3, out=tmp_path / "runs", write=page)
    assert study.run(Console(quiet=True)) == 0
    rows = [line for line in page.read_text().splitlines() if line.startswith("| digits-fcn")]
    assert len(rows) == 2 * len(VARIANTS) and all("±" in row for row in rows)
    assert len({row.split("|")[4] for row in rows}) > 1, "batches differ"
    first = [row.split("|")[4] for row in rows[: len(VARIANTS)]]
    assert len(set(first)) == 1, "the first steps all have feedback, on all of 32 samples"
    monkeypatch.setattr(Resting, "train", lambda *_: pytest.fail("a finished run was made again"))
    assert study.run(Console(quiet=True)) == 0
