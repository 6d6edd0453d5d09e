"""The outcome of single runs, and how their numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ocnopt_lab import problems
from ocnopt_lab.runs import folder
from ocnopt_lab.studies.runner import Run
from ocnopt_lab.tasks import Classification, Measure


@dataclass(frozen=True)
class Result:
    """A complete run; the loss of a diverged run is infinite. `test_score` is that of the measure.

    memory_mb: peak of the process during training steps.  extra: what a study adds for its results.json.
    """

    problem: str
    method: str
    seed: int
    train_loss: float
    test_score: float
    seconds: float
    seconds_per_step: float
    diverged: bool
    environment: dict[str, Any]
    measure: Measure = Classification.measure
    memory_mb: float = math.nan
    rate: float | None = None
    knob: float | str | None = None
    folder: str = ""
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; the measure by its words."""
        names = ("problem", "method", "seed", "rate", "knob", "train_loss", "test_score")
        return {
            **{name: getattr(self, name) for name in names},
            "status": "diverged" if self.diverged else "finished",
            "measure": self.measure.label,
            "seconds": self.seconds,
            "seconds_per_step": self.seconds_per_step,
            "peak_memory_mb": self.memory_mb,
            "folder": self.folder,
            **self.extra,
        }


def results_of(runs: Sequence[Run]) -> list[Result]:
    """Of the runs that are complete."""
    pairs = [(run, summary) for run in runs if (summary := run.summary()) is not None]
    return [_result(run, summary) for run, summary in pairs]


def _result(run: Run, summary: dict[str, Any]) -> Result:
    loss = summary["train_loss"]
    diverged = summary["status"] == "diverged" or loss is None
    measure = problems.get(run.problem).task.measure
    score = summary[measure.column]
    return Result(
        problem=run.problem,
        method=run.method,
        seed=run.seed,
        train_loss=math.inf if diverged else loss,
        test_score=measure.worst if diverged or score is None else score,
        seconds=summary["seconds"],
        seconds_per_step=summary["seconds_per_step"],
        diverged=diverged,
        environment=summary["environment"],
        measure=measure,
        memory_mb=summary["peak_memory_mb"],
        rate=run.rate,
        knob=run.knob,
        folder=run.path.name,
    )


def by_method(results: Sequence[Result], problem: str) -> dict[str, list[Result]]:
    """The runs of one problem, seeds in order."""
    mine = [result for result in results if result.problem == problem]
    names = dict.fromkeys(result.method for result in mine)
    return {name: sorted((x for x in mine if x.method == name), key=lambda x: x.seed) for name in names}


def steps_of(run: Run) -> list[folder.Row]:
    """The rows of groups of steps; a loss that is not finite is infinite."""
    rows = [row for row in folder.read_rows(run.path / folder.METRICS) if row["kind"] == "steps"]
    return [{**row, "loss": math.inf if row["loss"] is None else row["loss"]} for row in rows]


def heading(measure: Measure) -> str:
    """The measure above a column, with the unit that `cell` leaves out."""
    return f"{measure.label}, %" if measure.format.endswith("%") else measure.label


def cell(measure: Measure, value: float) -> str:
    """A score without its unit."""
    return measure.text(value).removesuffix("%").replace("not finite", "∞")


def number(loss: float) -> str:
    return f"{loss:.4f}" if math.isfinite(loss) else "∞"


def machines(results: Sequence[Result]) -> str:
    """Hardware and versions; one line per distinct machine."""
    return "\n\n".join(dict.fromkeys(machine(result.environment) for result in results))


def machine(env: dict[str, Any]) -> str:
    """Hardware and versions in one line."""
    versions = f"Python {env['python']}, torch {env['torch']}, ocnopt {env['ocnopt']}"
    system = env["system"].split("-")[0]
    device = f"{env['device']}; " if env.get("device") else ""
    return (
        f"{device}{env['cpu']}, {env['cores']} cores, {many(env['threads'], 'thread')} per run, {system}; {versions}."
    )


def many(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def at_once(jobs: int) -> str:
    return f"{jobs} runs at a time" if jobs > 1 else "one run at a time"
