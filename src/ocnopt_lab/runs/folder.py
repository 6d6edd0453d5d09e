"""The files of a run folder: config, metrics, summary."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

from ocnopt_lab.errors import LabError, writing
from ocnopt_lab.runs.config import RunConfig

CONFIG, METRICS, SUMMARY, CURVES = "config.json", "metrics.jsonl", "summary.json", "curves.png"
ALIGNMENTS, ALIGNMENTS_PICTURE = "alignments.json", "alignments.png"
Row = dict[str, Any]


def default_path(config: RunConfig) -> Path:
    """runs/<problem>-<optimizer>-<seed>-<time>."""
    return timed(f"{config.problem}-{config.optimizer.label}-{config.seed}")


def timed(name: str) -> Path:
    """runs/<name>-<time>, to the millisecond."""
    return Path("runs") / f"{name}-{datetime.now().strftime('%Y%m%d-%H%M%S-%f')[:-3]}"


def create(path: Path, config: RunConfig) -> None:
    """Makes the folder with its config.json; a folder that already holds a run is left alone."""
    if (path / CONFIG).exists():
        raise LabError(f"{path} already holds a run; choose another --out, or continue it with --resume {path}.")
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    write_json(path / CONFIG, config.to_dict())


def read_config(path: Path) -> RunConfig:
    """The configuration of an existing run."""
    file = path / CONFIG
    try:
        values = json.loads(file.read_text())
    except OSError as error:
        raise LabError(f"{path} is not a run folder: {file} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise LabError(f"{file} is damaged: {error}.") from error
    return RunConfig.from_dict(values, file)


def read_rows(path: Path) -> list[Row]:
    """The rows of a metrics file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_json(path: Path, values: Row) -> None:
    """Values as indented JSON; a number that is not finite becomes null, as JSON has none."""
    with writing(path):
        path.write_text(json.dumps(_finite(values), indent=2) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class Metrics:
    """Rows of metrics, in memory and appended to metrics.jsonl as they come."""

    def __init__(self, path: Path, rows: list[Row]) -> None:
        """`rows` are those of the checkpoint a run goes on from; what the file holds beyond them is dropped."""
        self.path, self.rows = path, rows
        with writing(path):
            path.write_text("".join(map(_line, rows)))

    def append(self, row: Row) -> None:
        """Adds one row."""
        self.rows.append(_finite(row))
        with writing(self.path), self.path.open("a") as file:
            file.write(_line(row))

    def epochs(self) -> list[Row]:
        """The rows with the scores after each epoch."""
        return [row for row in self.rows if row["kind"] == "epoch"]


def _line(row: Row) -> str:
    return json.dumps(_finite(row)) + "\n"
