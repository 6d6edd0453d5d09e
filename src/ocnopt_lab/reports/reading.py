"""What folders of runs and studies hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ocnopt_lab import problems
from ocnopt_lab.errors import LabError
from ocnopt_lab.problems import Problem
from ocnopt_lab.runs import folder
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.folder import Row
from ocnopt_lab.studies.results import JSON, Picture, Table

_NEEDED = ("command", "kind", "problem", "environment", "tables", "pictures")


@dataclass(frozen=True)
class RunFound:
    """One run.

    epochs: its rows of scores, the first of the untrained network.  summary: None while it has not ended.
    """

    path: Path
    config: RunConfig
    epochs: Sequence[Row]
    summary: Row | None

    @property
    def problem(self) -> Problem:
        return problems.get(self.config.problem)

    @property
    def status(self) -> str:
        """finished, diverged, or how far it has come."""
        if self.summary is not None:
            return self.summary["status"]
        return f"epoch {self.last['epoch']} of {self.config.epochs}" if self.epochs else "not scored yet"

    @property
    def last(self) -> Row:
        """The newest scores, and what they took."""
        return self.summary or self.epochs[-1]

    @property
    def environment(self) -> Row:
        """Hardware and versions, known of runs that have ended."""
        return {} if self.summary is None else self.summary["environment"]

    def pictures(self) -> list[Path]:
        """All that the run has drawn but its curves, which the report draws together with those of others."""
        return [path for path in sorted(self.path.glob("*.png")) if path.name != folder.CURVES]


@dataclass(frozen=True)
class StudyFound:
    """One study; `told` is its results.json."""

    path: Path
    told: dict[str, Any]

    @property
    def tables(self) -> list[Table]:
        return [Table(**table) for table in self.told["tables"]]

    @property
    def pictures(self) -> list[Picture]:
        return [Picture(**picture) for picture in self.told["pictures"]]


Finding = RunFound | StudyFound


def read(paths: Sequence[Path]) -> list[Finding]:
    """Runs and studies in the order of `paths`; of a folder that is neither, all that lie in it.

    Raises LabError where there is none, or where its files are damaged.
    """
    found: list[Finding] = []
    for path in paths:
        inside = list(_inside(path))
        if not inside:
            raise LabError(f"{path} holds neither a run nor a study; name folders that ocnopt has written.")
        found += inside
    return found


def _inside(path: Path) -> Iterator[Finding]:
    if (path / JSON).is_file():
        yield _study(path)
    elif (path / folder.CONFIG).is_file():
        yield _run(path)
    elif path.is_dir():
        for child in sorted(path.iterdir()):
            if (child / folder.CONFIG).is_file() or (child / JSON).is_file():
                yield from _inside(child)


def _run(path: Path) -> RunFound:
    rows = folder.read_rows(path / folder.METRICS) if (path / folder.METRICS).is_file() else []
    summary = _json(path / folder.SUMMARY) if (path / folder.SUMMARY).is_file() else None
    return RunFound(path, folder.read_config(path), [row for row in rows if row["kind"] == "epoch"], summary)


def _study(path: Path) -> StudyFound:
    told = _json(path / JSON)
    missing = [name for name in _NEEDED if name not in told]
    if missing:
        raise LabError(f"{path / JSON} has no {', '.join(missing)}, as the results of a study do; make the study anew.")
    return StudyFound(path, told)


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise LabError(f"{path} is damaged: {error}.") from error
