"""Files of runs of equal seconds, which scripts write and read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ocnopt_lab.runs.environment import describe
from ocnopt_lab.runs.folder import write_json
from ocnopt_lab.timed import Mark


def write_marks(path: Path, settings: Mapping[str, Any], marks: Sequence[Mark]) -> None:
    """The file of one run, which says that it is complete."""
    write_json(path, {**settings, "environment": describe(), "marks": [asdict(mark) for mark in marks]})


def read_marks(path: Path) -> list[Mark]:
    """What is not finite has diverged; JSON has no number for it."""
    found = json.loads(path.read_text())["marks"]
    return [Mark(**{name: math.inf if x is None else x for name, x in mark.items()}) for mark in found]


def machine(env: Mapping[str, Any]) -> str:
    """Where runs were made."""
    return f"{env['cpu']}, {env['cores']} cores; Python {env['python']}, torch {env['torch']}."
