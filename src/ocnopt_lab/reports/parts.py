"""From what folders hold to what a page shows: tables of words, figures as data, commands."""

from __future__ import annotations

import base64
import io
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ocnopt_lab.errors import LabError
from ocnopt_lab.reports.reading import RunFound, StudyFound
from ocnopt_lab.runs import curves
from ocnopt_lab.studies.results import Table

_WORDS = {"policy": "what the layers react to, seen from the image", "policy_states": "what the layers react to"}
_WORDS |= {"policy_gains": "gains of the feedback through training", "alignments": "alignments that were played"}


@dataclass(frozen=True)
class Shown:
    """A picture, as the address of its data."""

    data: str
    caption: str


@dataclass(frozen=True)
class Entry:
    """One run in detail: pairs of names and values, and how to repeat it."""

    title: str
    command: str
    settings: Sequence[tuple[str, str]]
    pictures: Sequence[Shown]


@dataclass(frozen=True)
class Part:
    """A problem with its runs, or a study."""

    title: str
    paragraphs: Sequence[str]
    command: str
    tables: Sequence[Table]
    figures: Sequence[Shown]
    entries: Sequence[Entry] = ()


def of_problem(runs: Sequence[RunFound]) -> Part:
    """All runs of one problem."""
    problem = runs[0].problem
    what = f"{problem.description}; trained on `{problem.data}`."
    scored = [run for run in runs if run.epochs]
    figures = [Shown(svg(figure), caption) for caption, figure in panels(scored)]
    return Part(problem.name, [what], "", [outcomes(runs)], figures, [entry(run) for run in runs])


def outcomes(runs: Sequence[RunFound]) -> Table:
    """One line for each run."""
    measure = runs[0].problem.task.measure
    columns = [
        "optimizer",
        "rate",
        "seed",
        measure.label,
        "training loss",
        "seconds",
        "ms per step",
        "memory MB",
        "status",
    ]
    rows = [
        [run.config.optimizer.label, _number(run.config.optimizer.lr), str(run.config.seed), *scores(run), run.status]
        for run in runs
    ]
    note = "Seconds are those in training steps. A rate that was not given is the optimizer's own, marked –."
    return Table("Outcomes", columns, rows, note)


def scores(run: RunFound) -> list[str]:
    """Cells for score, loss and cost after the last epoch that was scored."""
    if not run.epochs:
        return ["–"] * 5
    last, measure = run.last, run.problem.task.measure
    per_step = last["seconds_per_step"]
    return [
        measure.text(last[measure.column]),
        "not finite" if last["train_loss"] is None else f"{last['train_loss']:.4g}",
        f"{last['seconds']:.1f}",
        "–" if per_step is None else f"{1000 * per_step:.2f}",
        f"{last['peak_memory_mb']:.0f}",
    ]


def panels(runs: Sequence[RunFound]) -> list[tuple[str, Figure]]:
    """Curves of all runs, one small figure each; runs of one optimizer that differ in rate have lines of their own."""
    if not runs:
        return []
    named = [curves.Curve(_legend(run, runs), run.config.optimizer.label, run.epochs) for run in runs]
    return curves.panels(named, runs[0].problem.task)


def _legend(run: RunFound, among: Sequence[RunFound]) -> str:
    """The optimizer, with its rate where that tells it from another run of the same."""
    label = run.config.optimizer.label
    rates = {other.config.optimizer.lr for other in among if other.config.optimizer.label == label}
    return label if len(rates) == 1 else f"{label}, {_number(run.config.optimizer.lr)}"


def entry(run: RunFound) -> Entry:
    """Everything that decided the numbers of a run."""
    config = run.config.to_dict()
    chosen = {f"optimizer.{name}": value for name, value in config.pop("optimizer").items()}
    settings = [(name, f"{value}") for name, value in {**config, **chosen}.items() if value is not None]
    pictures = [Shown(png(path), _WORDS.get(path.stem, path.stem)) for path in run.pictures()]
    title = f"{run.config.optimizer.label}, seed {run.config.seed}: {run.path}"
    return Entry(title, shlex.join(["ocnopt", "train", *run.config.arguments()]), settings, pictures)


def of_study(study: StudyFound) -> Part:
    """A study as its results.json tells it."""
    told = study.told
    figures = [Shown(png(study.path / picture.file), picture.caption) for picture in study.pictures]
    return Part(f"{told['kind']}: {told['problem']}", told.get("sentences", []), told["command"], study.tables, figures)


def machines(environments: Iterable[Mapping[str, Any]]) -> Table:
    """Hardware and versions, a column for each that differs."""
    different = [dict(pairs) for pairs in dict.fromkeys(tuple(e.items()) for e in environments if e)]
    names = list(dict.fromkeys(name for machine in different for name in machine))
    rows = [[name, *(str(machine.get(name, "–")) for machine in different)] for name in names]
    columns = ["", *(f"machine {j}" if len(different) > 1 else "machine" for j in range(1, len(different) + 1))]
    return Table("Hardware and versions", columns, rows)


def svg(figure: Figure) -> str:
    """The figure as a drawing, which stays sharp on every screen."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return _address("image/svg+xml", buffer.getvalue())


def png(path: Path) -> str:
    """The bytes of a picture as they are."""
    try:
        return _address("image/png", path.read_bytes())
    except OSError as error:
        raise LabError(f"Cannot read {path}: {error.strerror or error}.") from error


def _address(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:g}"
