"""What `ocnopt ablate` varies and tells: pairs of runs that differ in κ alone, κ = 0 against κ > 0."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ocnopt.curvature import TABLE as CURVATURES
from ocnopt.options import ROLLOUTS, VALUES
from ocnopt_lab.optimizers import OptimizerConfig
from ocnopt_lab.studies import forest
from ocnopt_lab.studies.arms import Arm, Number, arms_of, loss
from ocnopt_lab.studies.results import Picture, Table
from ocnopt_lab.studies.statistics import Comparison, holm
from ocnopt_lab.studies.summaries import Result
from ocnopt_lab.studies.tables import power, score, score_form, tell, tested

Axis = Literal["metric", "value", "rollout", "beta", "kappa", "samples"]
AXES: dict[Axis, tuple[str, tuple[Any, ...]]] = {
    "metric": ("curvature", tuple(CURVATURES)),
    "value": ("value", tuple(VALUES)),
    "rollout": ("rollout", tuple(ROLLOUTS)),
    "beta": ("beta", (1e-3, 1e-2, 0.1, 1.0)),
    "kappa": ("feedback", (0.1, 0.3, 1.0, 3.0)),
    "samples": ("feedback_samples", ("16", "64", "all")),
}
"""What is varied → the option of the optimizer and its values."""
BASE = OptimizerConfig(value="per-sample", rollout="linear", feedback=1.0, feedback_every=1)
"""Feedback in every step: what is taken away should have been there."""
PICTURE = "ablation.png"


@dataclass(frozen=True)
class Setting:
    """One value of one axis."""

    axis: str
    value: str
    optimizer: OptimizerConfig

    @property
    def twin(self) -> OptimizerConfig:
        """The same without feedback."""
        return replace(self.optimizer, feedback=0.0)


def settings(axis: Axis, base: OptimizerConfig) -> list[Setting]:
    """All values of an axis around the base. A β makes the terminal factor the gradient's."""
    option, values = AXES[axis]
    return [Setting(axis, f"{value}", replace(base, **{option: value})) for value in values]


def name_of(optimizer: OptimizerConfig, base: OptimizerConfig) -> str:
    """What tells it from the base, as in curvature-kfac-feedback-0."""
    known, parts = asdict(base), asdict(optimizer)
    other = {key: value for key, value in parts.items() if value != known[key]}
    words = (f"{key}-{value:g}" if type(value) is float else f"{key}-{value}" for key, value in other.items())
    return "-".join(words) or "base"


@dataclass(frozen=True)
class Row:
    """A setting on a problem: with feedback, without, and their training losses compared."""

    setting: Setting
    on: Arm
    off: Arm
    losses: Comparison


class Ablation:
    """All problems of a study."""

    def __init__(self, settings: Sequence[Setting], base: OptimizerConfig, results: Sequence[Result]) -> None:
        self.settings, self.base = settings, base
        names = dict.fromkeys(result.problem for result in results)
        found = {name: self.rows_of({arm.method: arm for arm in arms_of(results, name)}) for name in names}
        self.rows = {name: rows for name, rows in found.items() if rows}

    def rows_of(self, arms: dict[str, Arm]) -> list[Row]:
        """Of the settings whose two arms have a seed in common."""
        rows = []
        for setting in self.settings:
            on, off = (arms.get(name_of(x, self.base)) for x in (setting.optimizer, setting.twin))
            if on and off and on.meets(off):
                rows.append(Row(setting, on, off, on.against(off)))
        return rows

    def tables(self) -> list[Table]:
        return [table for name, rows in self.rows.items() for table in self.tables_of(name, rows)]

    def tables_of(self, name: str, rows: Sequence[Row]) -> list[Table]:
        measure = rows[0].on.results[0].measure
        return [
            _table(f"{name}: training loss with feedback and without", rows, loss, tell),
            _table(f"{name}: {measure.label} with feedback and without", rows, score, score_form(measure)),
            _costs(f"{name}: what feedback costs", rows),
        ]

    def sentences(self) -> list[str]:
        return [_sentence(name, rows) for name, rows in self.rows.items()]

    def draw(self, folder: Path) -> list[Picture]:
        if not self.rows:
            return []
        panels = {
            name: [(f"{row.setting.axis} {row.setting.value}", row.losses.difference) for row in rows]
            for name, rows in self.rows.items()
        }
        forest.draw(folder / PICTURE, panels, "training loss with feedback minus without")
        return [Picture(PICTURE, "What feedback changes, option by option: median differences and 95 % intervals.")]


def _table(title: str, rows: Sequence[Row], number: Number, form: Callable[[float], str]) -> Table:
    """A row per setting: with feedback, without, and how they compare."""
    found = [row.on.against(row.off, number) for row in rows]
    corrected = holm([comparison.p for comparison in found])
    cells = [
        (
            row.setting.axis,
            row.setting.value,
            *(arm.estimate(number).text(form) for arm in (row.on, row.off)),
            *tested(comparison, p, form),
        )
        for row, comparison, p in zip(rows, found, corrected, strict=True)
    ]
    columns = ("option", "value", "with feedback", "without", "with - without", "with lower", "p", "p (Holm)")
    return Table(title, columns, cells, power(found))


def _costs(title: str, rows: Sequence[Row]) -> Table:
    """Medians of seconds and memory with feedback over those without, and how many runs diverged."""
    cells = [
        (
            row.setting.axis,
            row.setting.value,
            *(f"{row.on.median(number) / row.off.median(number):.2f}" for number in (_seconds, _memory)),
            *(f"{arm.diverged} of {len(arm.results)}" for arm in (row.on, row.off)),
        )
        for row in rows
    ]
    return Table(title, ("option", "value", "x seconds", "x memory", "diverged with", "diverged without"), cells)


def _seconds(result: Result) -> float:
    return result.seconds


def _memory(result: Result) -> float:
    return result.memory_mb


def _sentence(name: str, rows: Sequence[Row]) -> str:
    """How often feedback lowered the training loss, raised it, or did neither for certain."""
    lower = sum(row.losses.difference.high < 0 for row in rows)
    higher = sum(row.losses.difference.low > 0 for row in rows)
    return (
        f"**{name}**: of {len(rows)} options, feedback lowers the training loss of **{lower}** and raises that of "
        f"**{higher}** (intervals of 95 % that do not hold 0, not corrected); of the rest neither is certain."
    )
