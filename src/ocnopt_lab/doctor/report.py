"""An examination on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ocnopt.seats import ROOT
from ocnopt_lab.doctor.advice import megabytes
from ocnopt_lab.doctor.examination import Layer
from ocnopt_lab.doctor.trial import Trial

_HEADER = ("layer", "player", "metric", "feedback", "parameters", "state", "cost")
_RIGHT = ("parameters", "state")


def layers_table(title: str, layers: Sequence[Layer]) -> Table:
    """One line for each layer."""
    table = Table(title=Text(title), box=SIMPLE_HEAD)
    for name in _HEADER:
        table.add_column(name, justify="right" if name in _RIGHT else "left", overflow="fold")
    for layer in layers:
        table.add_row(*map(Text, cells(layer)))
    return table


def cells(layer: Layer) -> tuple[str, ...]:
    frozen = layer.parameters == 0
    by_name = layer.player in ("none", "generic")
    return (
        layer.path,
        f"{layer.player} ({layer.module})" if by_name else layer.player,
        "frozen" if frozen else layer.metric,
        "yes" if layer.feedback else "no",
        f"{layer.parameters or layer.frozen:,}",
        megabytes(layer.state),
        "" if frozen else f"{layer.cost}, {layer.rows:.0f} rows" if layer.rows else layer.cost,
    )


def sentences(console: Console, title: str, lines: Sequence[str]) -> None:
    console.print(Text(title, style="bold"))
    for line in lines:
        console.print(Text(f"- {line}"))


def trial_lines(layers: Sequence[Layer], trial: Trial) -> list[str]:
    """Who took part against what was expected, and the shares of the time."""
    playing = [row for row in trial.rows if row.feedback]
    lines = [f"{len(playing)} of {len(trial.rows)} parameters took part in the feedback, under a {trial.loss}."]
    expected = {layer.path for layer in layers if layer.feedback}
    for row in trial.rows:
        path = row.parameter.rpartition(".")[0] or ROOT
        if not row.feedback and path in expected and "frozen" not in row.reason:
            lines.append(f"{row.parameter} was expected to and did not: {row.reason}")
    step = trial.diagnostics["step seconds"]
    lines.append(f"Forward and backward pass took {trial.passes * 1e3:.1f} ms, the step {step * 1e3:.1f} ms:")
    shares = ", ".join(f"{name} {share:.0%}" for name, share in trial.shares.items())
    return [*lines[:-1], f"{lines[-1]} {shares}."]
