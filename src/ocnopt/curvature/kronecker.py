"""Curvatures of matrix players from running averages of their Kronecker factors, and KFAC, the first of them.

KFAC   M = (A + π√λ I) ⊗ (B + √λ/π I)                    Martens and Grosse, arXiv 1503.05671
EKFAC  M = U (S + λ) Uᵀ,  U = U_A ⊗ U_B,  S = E[(Uᵀg)²]   George et al., arXiv 1806.03884 (in ``ekfac``)

Both hold the layer's own Gauss-Newton block. Statistics and decompositions have periods of their
own. Players without a matrix, and parameters without a player, take the companion's diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

from ..core.protocols import MatrixPlayer
from ..core.ranks import ALONE, Ranks
from ..core.stage import Metric
from ..core.trajectory import Call
from ..linalg.blocks import diagonal, recut, shape_of, width_of
from ..linalg.symmetric import DecompositionError, Tally
from .decompositions import INVERSE, cubes, damped_inverse, dampings
from .diagonal import Adam, Diagonal, State, require_fraction, require_positive
from .factors import Evidence, evidence, factor_A, factor_B, private
from .metrics import KroneckerMetric

Some = TypeVar("Some", bound="Kronecker")
FISHER = ("sampled", "given")
SIDES = ("A", "B")
DECOMPOSED = ("inverse_A", "inverse_B", "damping", "s_A", "s_B", "U_A", "U_B", "S")
OWN = ("updates", *SIDES, *DECOMPOSED)
"""Names of the state that belongs to the player as a whole, kept with its first parameter."""
USUAL = 10
"""Steps from one update of the factors to the next."""
FEW = 64
"""In batches of fewer samples they are twice as many."""


@dataclass(frozen=True)
class Kronecker:
    """Options that KFAC and EKFAC share.

    damping: λ with search="fixed"; the model search brings its own.
    averaging: coefficient of the running averages of A, B and S.
    statistics_every, decompose_every: periods in steps; both are due on every one of the first steps. Statistics by
        default every ``USUAL`` steps; twice as rarely where feedback rests and batches have fewer than ``FEW``
        samples, since what they cost a smaller batch does not change.
    together: how many players are decomposed in the same step of a period. None: with one process one, so that all
        steps take about as long; with several twice as many as there are, so that each has its share to do.
    rows: about how many rows (samples times positions) each update of the factors uses.
    max_factor: a side larger than this keeps its factor in equal blocks of at most ``block_size`` rows, and if these
        were more than ``max_blocks``, only its diagonal.
    fisher: "sampled" draws labels from the model where the loss allows it, with one more backward
        pass on the steps that gather statistics; "given" takes the loss's own gradients.
    companion: the diagonal for everything without a Kronecker form; companion_lr: its rate at lr = 1.
    """

    damping: float = 1e-2
    averaging: float = 0.98
    statistics_every: int | None = None
    decompose_every: int = 50
    rows: int = 2048
    max_factor: int = 4096
    block_size: int = 1024
    max_blocks: int = 16
    together: int | None = None
    fisher: str = "sampled"
    companion: Diagonal = field(default_factory=Adam)
    companion_lr: float = 2e-3
    decoupled_decay = True
    momentum = 0.9
    default_lr = 2e-3
    unit = 1.0
    feedback_samples = 64

    def __post_init__(self) -> None:
        require_positive("damping", self.damping)
        require_positive("companion_lr", self.companion_lr)
        require_fraction("averaging", self.averaging)
        for name in ("statistics_every", "decompose_every", "rows", "max_factor", "block_size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.max_blocks < 0:
            raise ValueError(f"max_blocks={self.max_blocks} must not be negative; with 0 large sides keep diagonals.")
        if self.together is not None and self.together < 1:
            raise ValueError(f"together={self.together} must be at least 1; None leaves it to the number of processes.")
        if self.fisher not in FISHER:
            raise ValueError(f"fisher={self.fisher!r} is not one of {', '.join(FISHER)}.")

    def statistics_due(self, step: int) -> bool:
        """Whether step (1, 2, …) gathers statistics; the first ones all do, since the averages are young."""
        return step <= 5 or step % self.period == 0

    @property
    def period(self) -> int:
        """Of the statistics, in steps."""
        return self.statistics_every or USUAL

    def paced(self: Some, batch: int) -> Some:
        """With the period of statistics that suits batches of so many samples, where none is given."""
        return self if self.statistics_every or batch >= FEW else with_period(self, 2 * USUAL)

    def decomposition_due(self, step: int, offset: int) -> bool:
        """Whether step renews the decompositions of the player with this offset: staggered, and often at first."""
        return step in (1, 3, 10, 25) or (step > 25 and (step + offset) % self.decompose_every == 0)

    def offset(self, place: int, places: int, size: int) -> int:
        """Steps by which the player at this place (0, 1, …, places − 1) is staggered, with so many processes."""
        together = self.together or (1 if size == 1 else 2 * size)
        return place // together * self.decompose_every // -(-places // together)

    def width(self, n: int) -> int:
        """Rows of the blocks in which a factor of side n is kept: n for all of it, 1 for its diagonal."""
        if n <= self.max_factor:
            return n
        count = -(-n // min(self.block_size, self.max_factor))
        return -(-n // count) if count <= self.max_blocks else 1

    def fit(self, player: MatrixPlayer, state: State) -> None:
        """Forget factors that are blank, or of another size: a bias frozen or thawed changes the input side.

        Those that were kept in other blocks, by a state that was loaded, go on in today's.
        """
        if "A" not in state:
            return
        if state["A"].shape[1] != player.fan_in or not state.get("updates"):
            for name in OWN:
                state.pop(name, None)
        elif any(width_of(state[side]) != self.width(state[side].shape[1]) for side in SIDES):
            kept = {side: recut(state[side], self.width(state[side].shape[1])) for side in SIDES}
            for name in DECOMPOSED:
                state.pop(name, None)
            state.update(kept)

    def evidence(self, player: MatrixPlayer, calls: Sequence[Call], ranks: Ranks = ALONE) -> list[Evidence]:
        """Rows of the calls of one step. A module called twice in a sweep sees the same samples twice."""
        batch = ranks.size * sum({call.sweep: call.batch for call in calls}.values())
        return [*evidence(player, calls, batch, self.rows), *private(player, 1 / ranks.size)]

    def observe(self, parts: Sequence[Evidence], state: State, tally: Tally, ranks: Ranks = ALONE) -> None:
        """Update the running averages from all ranks; evidence that is not finite is left out and counted."""
        widths = (self.width(rows.shape[-1]) for rows in (parts[0].Z, parts[0].U))
        A, B = (factor(parts, width) for factor, width in zip((factor_A, factor_B), widths, strict=True))
        A, B = ranks.total(A if ranks.size == 1 else A / ranks.size, B)
        if not bool(diagonal(A).isfinite().all() & diagonal(B).isfinite().all()):  # the largest of a Gram matrix
            tally["statistics not finite"] += 1
            return
        state["updates"] = state.get("updates", 0) + 1
        keep = self.memory(state["updates"])
        average(state, "A", A, keep)
        average(state, "B", B, keep)
        self.correct(parts, state, keep, ranks)

    def correct(self, parts: Sequence[Evidence], state: State, keep: float, ranks: Ranks) -> None:
        """A curvature that keeps more than the factors updates it here."""

    def lay_out(self, player: MatrixPlayer, state: State) -> None:
        """Blank state in the shapes that the first updates will give it."""
        X = player.to_matrix(tuple(torch.zeros_like(p) for p in player.parameters))
        state["updates"] = 0
        for side, n in zip(SIDES, (X.shape[2], X.shape[1]), strict=True):
            state[side] = X.new_zeros(shape_of(len(X), n, self.width(n)))

    def memory(self, updates: int) -> float:
        """Averaging coefficient that weighs the first updates evenly."""
        return min(1 - 1 / updates, self.averaging)

    def renew(self, state: State, damping: float, tally: Tally) -> None:
        """Decompose the factors anew; on failure the old decompositions stay, and the failure is counted."""
        try:
            found = [self.decompose(state, side, damping, tally) for side in SIDES]
        except DecompositionError as error:
            tally[error.count] += 1
            return
        both = found[0] | found[1]
        self.adopt(state, both | self.carry(state, both), damping)

    def decompose(self, state: State, side: str, damping: float, tally: Tally) -> State:
        """What is kept of the decomposition of one side, "A" or "B". Raises DecompositionError."""
        raise NotImplementedError

    def carry(self, state: State, found: State) -> State:
        """What follows from the decompositions of both sides."""
        return {}

    def carry_cost(self, state: State) -> float:
        """About how many seconds ``carry`` takes."""
        return 0.0

    def adopt(self, state: State, found: State, damping: float) -> None:
        """Take what ``decompose`` and ``carry`` have found."""
        raise NotImplementedError

    def blank(self, state: State, side: str) -> State:
        """Zeros in the shapes of what ``decompose`` finds."""
        raise NotImplementedError

    def cost(self, state: State, side: str) -> float:
        """About how many seconds ``decompose`` takes."""
        raise NotImplementedError

    def stale(self, state: State, damping: float) -> bool:
        """Whether the decompositions no longer serve, whatever their period."""
        raise NotImplementedError

    def ready(self, state: State) -> bool:
        """Whether the state holds what ``metric`` needs."""
        raise NotImplementedError

    def metric(self, player: MatrixPlayer, state: State, damping: float, scale: float) -> Metric:
        raise NotImplementedError


@dataclass(frozen=True)
class KFAC(Kronecker):
    """M = (A + π√λ I) ⊗ (B + √λ/π I), π² = mean eigenvalue of A over that of B."""

    def lay_out(self, player: MatrixPlayer, state: State) -> None:
        super().lay_out(player, state)
        state.update(inverse_A=state["A"].clone(), inverse_B=state["B"].clone(), damping=0.0)

    def decompose(self, state: State, side: str, damping: float, tally: Tally) -> State:
        own = dampings(state["A"], state["B"], damping)[SIDES.index(side)]
        return {f"inverse_{side}": damped_inverse(state[side], own, tally)}

    def adopt(self, state: State, found: State, damping: float) -> None:
        state.update(found, damping=damping)

    def blank(self, state: State, side: str) -> State:
        return {f"inverse_{side}": torch.zeros_like(state[side])}

    def cost(self, state: State, side: str) -> float:
        return INVERSE * cubes(state[side])

    def stale(self, state: State, damping: float) -> bool:
        """Whether λ has moved so far that the inverses no longer hold it."""
        return "damping" not in state or not 2 / 3 <= damping / state["damping"] <= 3 / 2

    def ready(self, state: State) -> bool:
        return "inverse_A" in state

    def metric(self, player: MatrixPlayer, state: State, damping: float, scale: float) -> Metric:
        return KroneckerMetric(player, state["inverse_A"], state["inverse_B"], scale)


@lru_cache
def with_period(curvature: Some, every: int) -> Some:
    return replace(curvature, statistics_every=every)


def average(state: State, name: str, new: Tensor, keep: float) -> None:
    """state[name] ← keep·state[name] + (1 − keep)·new, in place; the first value is taken as it is."""
    if name in state:
        state[name].lerp_(new.to(state[name]), 1 - keep)
    else:
        state[name] = new.clone()
