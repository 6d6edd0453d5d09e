"""No number that is not finite moves a parameter, or stays in what is kept between steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from torch import Tensor

from .core.ranks import ALONE, Ranks
from .curvature import Kronecker
from .finiteness import are_finite, tensors_of
from .gathering import Turn
from .linalg.symmetric import Tally
from .updates import Clock, Method


@dataclass(frozen=True)
class Guard:
    """Looks at state before a step that feedback, search or statistics make of it, as a damaged checkpoint or memory
    leaves it. Where these rest only what comes of it is looked at, and what was not finite then before the next step.

    Diagonals by themselves go without, as in torch: no number that is not finite enters them.
    due: whether the step has feedback, as all have that gather statistics.
    """

    method: Method
    due: bool
    tally: Tally
    ranks: Ranks = ALONE

    @property
    def idle(self) -> bool:
        return not (isinstance(self.method.curvature, Kronecker) or self.method.needs_responses)

    def wary(self, clock: Clock) -> bool:
        """Whether to look at all state beforehand."""
        return self.due or clock.get("suspect", False)

    def mend(self, turns: Sequence[Turn], clock: Clock) -> None:
        """Forget state that is not finite on some rank."""
        if self.idle or not self.wary(clock):
            return
        states = [state for turn in turns for state in turn.states]
        if all(self.ranks.all([are_finite(tensors_of(states))])):
            return
        for state, sound in zip(states, self.ranks.all([are_finite(tensors_of([s])) for s in states]), strict=True):
            if not sound:
                self.tally["state begun anew"] += 1
                state.clear()

    def passes(self, turns: Sequence[Turn], clock: Clock) -> bool:
        """Whether the turns may move: of a step that nobody was wary of, all must be finite on all ranks."""
        if self.idle:
            return True
        sound = self.wary(clock) or all(self.ranks.all([are_finite(self.moved_by(turns))]))
        clock.pop("suspect", None)
        if not sound:
            clock["suspect"] = True
            self.tally["step not finite"] += 1
        return sound

    def moved_by(self, turns: Sequence[Turn]) -> Iterator[Tensor]:
        """What moves their parameters where the feedback rests."""
        for turn in turns:
            yield from chain(turn.step, self.method.previous(turn) or ()) if turn.step else tensors_of(turn.states)
