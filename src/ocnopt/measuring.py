"""The statistics of one step: running averages of gradients and Kronecker factors, and when they are decomposed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .core.ranks import ALONE, Ranks
from .curvature import Diagonal, Kronecker
from .curvature.splitting import Splitting
from .game.play import Game
from .gathering import Turn
from .linalg.symmetric import Tally
from .observing import BLIND, Blind
from .updates import by_group


def measure_diagonals(rule: Diagonal, turns: Sequence[Turn]) -> None:
    """Second moments of all parameters that take a diagonal metric."""
    for entries in by_group((turn, turn.gradients) for turn in turns):
        rule.statistics(entries.values, entries.states, entries.group)


def give_denominators(rule: Diagonal, turns: Sequence[Turn]) -> None:
    """What the diagonal metrics of the turns are made of, and the rule divides by when it moves them."""
    found: dict[int, Tensor | float] = {}
    for entries in by_group((turn, turn.params) for turn in turns):
        found |= zip(map(id, entries.params), rule.denominators(entries.states, entries.group), strict=True)
    for turn in turns:
        turn.denominators = [found[id(p)] for p in turn.params]


@dataclass(frozen=True)
class Factors:
    """Kronecker factors of all matrix players, own and, in a cooperative game, between those that may share a stage."""

    curvature: Kronecker
    game: Game | None
    tally: Tally
    ranks: Ranks = ALONE
    watch: Blind = BLIND

    def measure(self, turns: Sequence[Turn], step: int, damping: float) -> None:
        """Update and decompose what is due in this step, the factors of all players before any decomposition."""
        for turn in turns:
            self.observe(turn, step)
        if self.game is not None:
            seen = {turn.seat.path: turn for turn in turns if turn.evidence}
            evidence = {path: turn.evidence for path, turn in seen.items()}
            self.game.observe(evidence, states_of(seen.values()), self.curvature.memory, self.ranks)
        staggered = zip(turns, self.offsets(turns), strict=True)
        self.renew([turn for turn, offset in staggered if self.due(turn, step, offset, damping)], step, damping)
        for turn in turns:
            turn.kronecker = self.curvature.ready(turn.state)

    def observe(self, turn: Turn, step: int) -> None:
        """Running averages of the own factors, when they are due."""
        self.curvature.fit(turn.player, turn.state)  # type: ignore[arg-type]
        if turn.witnesses and self.curvature.statistics_due(step):
            turn.evidence = self.curvature.evidence(turn.player, turn.witnesses, self.ranks)  # type: ignore[arg-type]
            with self.counted(turn) as tally:
                self.curvature.observe(turn.evidence, turn.state, tally, self.ranks)

    def due(self, turn: Turn, step: int, offset: int, damping: float) -> bool:
        """Whether the own factors are to be decomposed in this step."""
        curvature, state = self.curvature, turn.state
        return "A" in state and (curvature.decomposition_due(step, offset) or curvature.stale(state, damping))

    def renew(self, turns: Sequence[Turn], step: int, damping: float) -> None:
        """Decompose the own factors of these turns, and turn what the game knows of them."""
        tallies = [Tally() for _ in turns]
        with self.watch.phase("decompositions"):
            try:
                Splitting(self.curvature, self.ranks).renew([turn.state for turn in turns], damping, tallies)
            finally:
                for turn, tally in zip(turns, tallies, strict=True):
                    self.count(turn, tally)
            if self.game is not None:
                self.game.renew(states_of(turns), step)

    def redamp(self, turns: Sequence[Turn], step: int, damping: float) -> None:
        """Decompose anew where λ has left the decompositions behind."""
        self.renew([turn for turn in turns if self.curvature.stale(turn.state, damping)], step, damping)

    @contextmanager
    def counted(self, turn: Turn) -> Iterator[Tally]:
        """A tally for one turn, see ``count``."""
        own = Tally()
        try:
            yield own
        finally:
            self.count(turn, own)

    def count(self, turn: Turn, own: Tally) -> None:
        """Its counts are those of all and, under its name, its own."""
        self.tally.update(own)
        self.tally.update({f"{turn.seat.name}/{name}": n for name, n in own.items()})

    def offsets(self, turns: Sequence[Turn]) -> list[int]:
        """Steps by which each turn's decompositions are staggered; those of one block of a game fall together."""
        homes = [turn.seat.path if self.game is None else self.game.home(turn.seat.path) for turn in turns]
        places = {home: j for j, home in enumerate(dict.fromkeys(homes))}
        return [self.curvature.offset(places[home], len(places), self.ranks.size) for home in homes]


def states_of(turns: Iterable[Turn]) -> dict[str, dict[str, Any]]:
    """State of every turn by the path of its seat."""
    return {turn.seat.path: turn.state for turn in turns}
