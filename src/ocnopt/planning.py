"""What the coming step will want of the trajectory, said to the capture before the forward pass."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from .core.acceptance import Outcome
from .core.trajectory import Sweep
from .curvature import Curvature, Kronecker
from .linalg.symmetric import Tally
from .options import Search
from .passes import send_draw, smallest
from .seats import Seat
from .stateful import Stateful


class Planned(Stateful):
    """An optimizer that knows before a step how much of its trajectory it will use."""

    curvature: Curvature
    search: Search | None
    feedback: float
    feedback_samples: int | None
    seats: list[Seat]
    tally: Tally
    seed: int
    last_step: Outcome | None = None
    """What became of the last step, with a search that measures its steps."""

    def uses_curvature(self) -> bool:
        return self.feedback > 0 or self.search is not None

    def plan(self) -> None:
        """Tell the capture how much of the coming trajectory will be used."""
        self.capture.keep = self.feedback_samples if self.uses_curvature() else 0
        gathering = self.gathering()
        self.capture.rows = 0 if gathering is None else gathering.rows

    def gathering(self) -> Kronecker | None:
        """The curvature, where the coming step gathers statistics for it."""
        curvature = self.curvature
        due = isinstance(curvature, Kronecker) and curvature.statistics_due(self.clock.get("step", 0) + 1)
        return curvature if due else None  # type: ignore[return-value]

    def draw(self, sweep: Sweep, output: GradientEdge) -> None:
        """Send cotangents at labels drawn from the model down the graph, when statistics are due."""
        gathering = self.gathering()
        wanted = gathering is not None and gathering.fisher == "sampled"
        if wanted and sweep.seen is not None and sweep.rank == 0:
            send_draw(self.capture, sweep.seen.sample(self.generator()), output, self.targets(), self.tally)

    def targets(self) -> list[Tensor]:
        """The parameters that an extra pass asks for, to reach all players."""
        return smallest(self.seats, self.capture.slots)

    def generator(self) -> torch.Generator:
        """A generator for this step alone, so that nothing needs to be saved to repeat it."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.clock.get("step", 0))
