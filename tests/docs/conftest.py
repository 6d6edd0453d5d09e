"""Where the pages are, and a place of its own for everything they run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # scripts import their neighbours by plain names


@pytest.fixture
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No page reads the user's data or writes into the user's cache or working directory.

    Processes that a page or a script starts run the code of this tree.
    """
    monkeypatch.setenv("OCNOPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OCNOPT_DATA", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.chdir(tmp_path)
    threads, rng = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield Path(os.getcwd())
    torch.set_num_threads(threads)
    torch.set_rng_state(rng)
