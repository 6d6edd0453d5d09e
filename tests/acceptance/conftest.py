"""Two processes for all tests that need them: they take longer to start than to work."""

from __future__ import annotations

from pathlib import Path

import pytest
from rank_worker import RANKS, work
from suite_cases import ALL, SABOTAGE
from torch import multiprocessing


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with what both have found out."""
    folder = tmp_path_factory.mktemp("ranks")
    others = [*ALL, SABOTAGE["DDP"], SABOTAGE["FSDP2"]]
    multiprocessing.spawn(work, (str(folder), others), RANKS)
    return folder
