"""What of a run folder must come out the same when a run is repeated, or resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def rows(out: str) -> list[dict[str, Any]]:
    """The metrics, without what the clock and the memory say, and without counts, which begin with every process."""
    lines = (Path(out) / "metrics.jsonl").read_text().splitlines()
    drop = {"seconds", "seconds_per_step", "peak_memory_mb", "memory_growth_mb"}
    kept = [{key: value for key, value in json.loads(line).items() if key not in drop} for line in lines]
    for row in kept:
        row["optimizer"] = {key: value for key, value in row.get("optimizer", {}).items() if " " not in key}
    return kept
