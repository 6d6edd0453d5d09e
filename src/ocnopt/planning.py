"""What the coming step will want of the trajectory, said to the capture before the forward pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from .core.acceptance import Outcome
from .core.arrivals import Mode
from .core.rollout import Linear, Nonlinear, Rollout
from .core.trajectory import Sweep
from .core.value import Value
from .curvature import Curvature, Kronecker
from .game.kinds import Kind
from .linalg.symmetric import Tally
from .options import Search
from .passes import send_draw, smallest
from .seats import Seat
from .stateful import Stateful

EAGER = 50
"""Steps at the beginning that all have feedback, whatever its period."""
SPARING = 16
"""feedback_every="auto" lets the feedback look at one in about so many of the samples that the steps see."""


def sparing(share: float, busy: int | None) -> int:
    """The period at which feedback on this share of every batch looks at one in ``SPARING`` samples, or fewer.

    busy: the period of steps that have feedback anyway, into which it is rounded up to fit.
    """
    wanted = max(1, math.ceil(SPARING * share))
    return wanted if busy is None else next((n for n in range(wanted, busy) if busy % n == 0), busy)


class Planned(Stateful):
    """An optimizer that knows before a step how much of its trajectory it will use."""

    curvature: Curvature
    search: Search | None
    feedback: float
    feedback_samples: int | None
    feedback_every: int | str
    game_kind: Kind | None
    seats: list[Seat]
    tally: Tally
    seed: int
    rollout: Rollout
    rollout_kind: type[Linear] | type[Nonlinear]
    value: Value
    resting: bool
    """Whether the feedback rests in the coming step, which is then the open loop's and captures nothing."""
    last_step: Outcome | None
    """What became of the last step, with a search that measures its steps."""

    def parts(self) -> dict[str, str]:
        chosen = {"curvature": self.curvature, "search": self.search, "game": self.game_kind}
        return {name: "none" if part is None else type(part).__name__ for name, part in chosen.items()}

    def uses_curvature(self) -> bool:
        """Whether the coming step asks for the curvature of the loss."""
        return (self.feedback > 0 or self.search is not None) and not self.resting

    def plan(self) -> None:
        """Decide whether the feedback rests in the coming step, and tell the capture how much of it will be used."""
        self.resting = not self.feedback_due(self.clock.get("step", 0) + 1)
        self.capture.keep = self.feedback_samples if self.uses_curvature() else 0
        gathering = self.gathering()
        self.capture.rows = 0 if gathering is None else gathering.rows
        self.capture.scale = self.clock.get("scale", 1.0)

    def remove_hooks(self) -> None:
        """Take all hooks off the model. Steps taken afterwards are those of the base optimizer."""
        self.capture.remove()
        self.rollout.remove()

    def train(self) -> None:
        """Go on capturing."""
        self.capture.enabled = True

    def eval(self) -> None:
        """Stop capturing, for forward passes in training mode that no step will use."""
        self.capture.enabled = False
        self.forget()

    def forget(self) -> None:
        """Release the trajectory."""
        self.capture.clear()
        self.rollout.clear()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As in torch. A step that was not taken, as a gradient scaler skips some, leaves nothing to the next."""
        super().zero_grad(set_to_none)
        if self.capture.mode is not Mode.OFF:  # a closure that is called once more, to measure a step, drops nothing
            self.capture.drop()

    def without_gradients(self) -> bool:
        """Whether no parameter holds a gradient."""
        return all(p.grad is None for group in self.param_groups for p in group["params"])

    def unscale(self, scale: float) -> None:
        """The trajectory as if no gradient scaler had multiplied the loss, and of a loss averaged over ranks."""
        divisor = scale * self.capture.ranks.size
        if divisor != 1.0:
            self.capture.unscale(divisor)
            self.rollout.unscale(divisor)
            self.capture.heard = None if self.capture.heard is None else self.capture.heard / scale
        if scale != self.clock.get("scale", 1.0):
            self.clock["scale"] = scale

    def gauge(self) -> None:
        """Keep the running mean of a loss that acts on every output entry by itself, as the search's unit."""
        sweeps = self.capture.reached.values()
        if self.capture.heard is None or not sweeps or not all(sweep.elementwise for sweep in sweeps):
            return
        ranks = self.capture.ranks
        loss = ranks.numbers(float(self.capture.heard))[0] / ranks.size
        before = self.clock.get("loss") or loss
        self.clock["loss"] = 0.9 * before + 0.1 * loss

    def gathering(self) -> Kronecker | None:
        """The curvature, where the coming step gathers statistics for it."""
        return self.gathers(self.clock.get("step", 0) + 1)

    def gathers(self, step: int) -> Kronecker | None:
        """The curvature, where that step gathers statistics for it."""
        curvature = self.paced(step)
        due = isinstance(curvature, Kronecker) and curvature.statistics_due(step)
        return curvature if due else None  # type: ignore[return-value]

    def feedback_due(self, step: int) -> bool:
        """Whether that step has feedback and a search of its own; those that measure their steps always have."""
        if step <= EAGER or getattr(self.search, "needs_closure", False) or self.gathers(step):
            return True
        return step % self.period() == 0

    def period(self) -> int:
        """Of the feedback, in steps: what ``feedback_every`` says, or "auto" makes of the batch."""
        if isinstance(self.feedback_every, int):
            return self.feedback_every
        if not self.may_rest:
            return 1
        curvature = self.paced(EAGER + 1)
        return sparing(self.clock["share"], curvature.period if isinstance(curvature, Kronecker) else None)

    @property
    def may_rest(self) -> bool:
        """Whether it is left to the optimizer how often there is feedback, and need not be in every step.

        A game learns from every step, and other values are asked for what they do in all.
        Nor where the loss is no softmax cross-entropy: small errors are reached by steps that are searched for.
        """
        free = self.game_kind is None and self.value.by_sample
        return self.feedback_every == "auto" and free and "batch" in self.clock

    def paced(self, step: int) -> Curvature:
        """The curvature, with the period of its statistics in that step that suits the batches at hand."""
        rests = step > EAGER and self.may_rest and isinstance(self.curvature, Kronecker)
        return self.curvature.paced(self.clock["batch"]) if rests else self.curvature  # type: ignore[union-attr]

    def draw(self, sweep: Sweep, output: GradientEdge) -> None:
        """Send cotangents at labels drawn from the model down the graph, when statistics are due."""
        if self.draws() and sweep.seen is not None and sweep.rank == 0:
            send_draw(self.capture, sweep.seen.sample(self.generator()), output, self.targets(), self.tally)

    def draw_signs(self, root: Tensor, output: Tensor) -> None:
        """The same for a loss with H diagonal, of which ``root`` is the square root: E[u uᵀ] = H for u = ±root."""
        if self.draws():
            signs = torch.randint(2, root.shape, generator=self.generator()).mul_(2).sub_(1)
            send_draw(self.capture, root * signs.to(root), get_gradient_edge(output), self.targets(), self.tally)

    def draws(self) -> bool:
        """Whether the coming step's statistics want draws."""
        gathering = self.gathering()
        return gathering is not None and gathering.fisher == "sampled"

    def targets(self) -> list[Tensor]:
        """The parameters that an extra pass asks for, to reach all players."""
        return smallest(self.seats, self.capture.slots)

    def generator(self) -> torch.Generator:
        """A generator for this step alone, so that nothing needs to be saved to repeat it."""
        number = self.seed * 1_000_003 + self.clock.get("step", 0)
        return torch.Generator().manual_seed(number + 7_368_787 * self.capture.ranks.rank)
