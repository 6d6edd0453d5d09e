"""The gains of all layers at one time of a run, and through it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ocnopt_lab.policies.recording import Batch, Recorded, record
from ocnopt_lab.policies.singular import leading
from ocnopt_lab.runs.trainer import Trainer

Gains = dict[str, float]
"""Path of a layer → σ = ‖K_t‖."""


@dataclass(frozen=True)
class Moment:
    """The gains after so many epochs."""

    epoch: float
    gains: Mapping[str, float]


def batch_of(trainer: Trainer, samples: int) -> Batch:
    """The first training samples, always the same ones."""
    return Batch(trainer.data.x_train[:samples], trainer.data.y_train[:samples], trainer.task)


def recorded(trainer: Trainer, samples: int) -> Recorded:
    """The policies of the step that the run would take next, were these samples its batch."""
    return record(trainer.model, trainer.optimizer, trainer.config.optimizer, batch_of(trainer, samples))


def gains_of(policies: Recorded) -> Gains:
    """‖K_t‖ of every layer, in forward order; left out where it is not finite, as after a run has diverged."""
    found = {path: leading(feedback).gain for path, feedback in policies.policies.items()}
    return {path: gain for path, gain in found.items() if math.isfinite(gain)}


def logged(rows: Sequence[Mapping[str, object]]) -> list[Moment]:
    """What the run has measured itself, from its rows of metrics."""
    return [Moment(float(row["epoch"]), row["gains"]) for row in rows if row.get("gains")]  # type: ignore[arg-type]
