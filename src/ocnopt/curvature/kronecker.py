"""KFAC and EKFAC: curvatures of matrix players from running averages of their Kronecker factors.

KFAC   M = (A + π√λ I) ⊗ (B + √λ/π I)                    Martens and Grosse, arXiv 1503.05671
EKFAC  M = U (S + λ) Uᵀ,  U = U_A ⊗ U_B,  S = E[(Uᵀg)²]   George et al., arXiv 1806.03884

Both hold the layer's own Gauss-Newton block. Statistics and decompositions have periods of their
own. Players without a matrix, and parameters without a player, take the companion's diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..core.protocols import MatrixPlayer
from ..core.ranks import ALONE, Ranks
from ..core.stage import Metric
from ..core.trajectory import Call
from ..linalg.symmetric import DecompositionError, Tally, eigh
from .decompositions import carried, damped_inverse, dampings, turn
from .diagonal import Adam, Diagonal, State, require_fraction, require_positive
from .factors import Evidence, evidence, factor_A, factor_B, private, squared_products
from .metrics import EigenMetric, KroneckerMetric

FISHER = ("sampled", "given")
OWN = ("updates", "A", "B", "inverse_A", "inverse_B", "damping", "s_A", "s_B", "U_A", "U_B", "S")
"""Names of the state that belongs to the player as a whole, kept with its first parameter."""


@dataclass(frozen=True)
class Kronecker:
    """Options that KFAC and EKFAC share.

    damping: λ with search="fixed"; the model search brings its own.
    averaging: coefficient of the running averages of A, B and S.
    statistics_every, decompose_every: periods in steps; both are due on every one of the first steps.
    rows: about how many rows (samples times positions) each update of the factors uses.
    max_factor: a side larger than this keeps only the diagonal of its factor.
    fisher: "sampled" draws labels from the model where the loss allows it, with one more backward
        pass on the steps that gather statistics; "given" takes the loss's own gradients.
    companion: the diagonal for everything without a Kronecker form; companion_lr: its rate at lr = 1.
    """

    damping: float = 1e-2
    averaging: float = 0.98
    statistics_every: int = 10
    decompose_every: int = 50
    rows: int = 2048
    max_factor: int = 4096
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
        for name in ("statistics_every", "decompose_every", "rows", "max_factor"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.fisher not in FISHER:
            raise ValueError(f"fisher={self.fisher!r} is not one of {', '.join(FISHER)}.")

    def statistics_due(self, step: int) -> bool:
        """Whether step (1, 2, …) gathers statistics; the first ones all do, since the averages are young."""
        return step <= 5 or step % self.statistics_every == 0

    def decomposition_due(self, step: int, offset: int) -> bool:
        """Whether step renews the decompositions of the player with this offset: staggered, and often at first."""
        return step in (1, 3, 10, 25) or (step > 25 and (step + offset) % self.decompose_every == 0)

    def fit(self, player: MatrixPlayer, state: State) -> None:
        """Forget factors that are blank, or of another size: a bias frozen or thawed changes the input side."""
        if "A" in state and (state["A"].shape[-1] != player.fan_in or not state.get("updates")):
            for name in OWN:
                state.pop(name, None)

    def evidence(self, player: MatrixPlayer, calls: Sequence[Call], ranks: Ranks = ALONE) -> list[Evidence]:
        """Rows of the calls of one step. A module called twice in a sweep sees the same samples twice."""
        batch = ranks.size * sum({call.sweep: call.batch for call in calls}.values())
        return [*evidence(player, calls, batch, self.rows), *private(player, 1 / ranks.size)]

    def observe(self, parts: Sequence[Evidence], state: State, tally: Tally, ranks: Ranks = ALONE) -> None:
        """Update the running averages from all ranks; evidence that is not finite is left out and counted."""
        A, B = ranks.total(factor_A(parts, self.max_factor) / ranks.size, factor_B(parts, self.max_factor))
        if not bool(A.isfinite().all() & B.isfinite().all()):
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
        sides = {"A": X.new_zeros(len(X), X.shape[2]), "B": X.new_zeros(len(X), X.shape[1])}
        state["updates"] = 0
        for side, diagonal in sides.items():
            state[side] = diagonal.diag_embed() if diagonal.shape[-1] <= self.max_factor else diagonal

    def memory(self, updates: int) -> float:
        """Averaging coefficient that weighs the first updates evenly."""
        return min(1 - 1 / updates, self.averaging)

    def renew(self, state: State, damping: float, tally: Tally) -> None:
        """Decompose the factors anew; on failure the old decompositions stay, and the failure is counted."""
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

    def renew(self, state: State, damping: float, tally: Tally) -> None:
        """Invert the damped factors; on failure the old inverses stay."""
        A, B = state["A"], state["B"]
        try:
            pairs = zip((A, B), dampings(A, B, damping), strict=True)
            inverses = [damped_inverse(X, d, tally) for X, d in pairs]
        except DecompositionError as error:
            tally[error.count] += 1
            return
        state.update(inverse_A=inverses[0], inverse_B=inverses[1], damping=damping)

    def stale(self, state: State, damping: float) -> bool:
        """Whether λ has moved so far that the inverses no longer hold it."""
        return "damping" not in state or not 2 / 3 <= damping / state["damping"] <= 3 / 2

    def ready(self, state: State) -> bool:
        return "inverse_A" in state

    def metric(self, player: MatrixPlayer, state: State, damping: float, scale: float) -> Metric:
        return KroneckerMetric(player, state["inverse_A"], state["inverse_B"], scale)


@dataclass(frozen=True)
class EKFAC(KFAC):
    """M = U (S + λ) Uᵀ: an amortised eigenbasis, and second moments of the gradients in it, kept up to date.

    whole: an input side larger than this is served by KFAC's inverses, since a rotation costs twice
        their product and a basis ten times an inverse.
    """

    whole: int = 1024

    def lay_out(self, player: MatrixPlayer, state: State) -> None:
        super().lay_out(player, state)
        if not self.diagonalised(state):
            return
        U_A, U_B, _ = (state.pop(name) for name in ("inverse_A", "inverse_B", "damping"))
        g, n_in, n_out = len(U_A), U_A.shape[-1], U_B.shape[-1]
        state.update(s_A=U_A.new_zeros(g, n_in), s_B=U_A.new_zeros(g, n_out), U_A=U_A)
        state.update({"U_B": U_B} if U_B.dim() == 3 else {})
        state["S"] = U_A.new_zeros(g, n_out, n_in)

    def diagonalised(self, state: State) -> bool:
        """Whether the player has an eigenbasis of its own rather than KFAC's inverses."""
        return state["A"].dim() == 3 and state["A"].shape[-1] <= self.whole

    def correct(self, parts: Sequence[Evidence], state: State, keep: float, ranks: Ranks) -> None:
        if "S" in state:
            (S,) = ranks.total(squared_products(parts, state["U_A"], state.get("U_B")))
            average(state, "S", S, keep)

    def renew(self, state: State, damping: float, tally: Tally) -> None:
        """Diagonalise the factors and carry S over into the new basis; on failure the old basis stays."""
        if not self.diagonalised(state):
            return super().renew(state, damping, tally)
        try:
            (s_A, U_A), (s_B, U_B) = eigh(state["A"], tally), self.basis(state["B"], tally)
        except DecompositionError as error:
            tally[error.count] += 1
            return None
        if "S" in state:
            S = carried(state["S"], turn(U_A, state["U_A"]), turn(U_B, state.get("U_B")))
        else:
            S = s_B[..., :, None] * s_A[..., None, :]
        # All at once: an interrupt in between would leave S in one basis and U in another.
        state.update({"s_A": s_A, "s_B": s_B, "U_A": U_A, "S": S, **({} if U_B is None else {"U_B": U_B})})
        return None

    def basis(self, B: Tensor, tally: Tally) -> tuple[Tensor, Tensor | None]:
        """Eigenvalues and eigenvectors, or the diagonal and None for a factor that is too large."""
        return eigh(B, tally) if B.dim() == 3 else (B, None)

    def stale(self, state: State, damping: float) -> bool:
        """λ enters with every solve in an eigenbasis, so that never goes stale by it."""
        return "S" not in state if self.diagonalised(state) else super().stale(state, damping)

    def ready(self, state: State) -> bool:
        return "S" in state or super().ready(state)

    def metric(self, player: MatrixPlayer, state: State, damping: float, scale: float) -> Metric:
        if "S" not in state:
            return super().metric(player, state, damping, scale)
        return EigenMetric(player, state["U_A"], state.get("U_B"), state["S"], damping, scale)


def average(state: State, name: str, new: Tensor, keep: float) -> None:
    """state[name] ← keep·state[name] + (1 − keep)·new, in place; the first value is taken as it is."""
    if name in state:
        state[name].lerp_(new.to(state[name]), 1 - keep)
    else:
        state[name] = new.clone()
