"""EKFAC: Kronecker factors give an eigenbasis, and second moments of the gradients in it the eigenvalues."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..core.protocols import MatrixPlayer
from ..core.ranks import Ranks
from ..core.stage import Metric
from ..linalg.symmetric import Tally
from .decompositions import BASIS, PRODUCT, carried, cubes, eigenbasis, turn
from .diagonal import State
from .factors import Evidence, squared_products
from .kronecker import DECOMPOSED, KFAC, SIDES, average
from .metrics import EigenMetric


@dataclass(frozen=True)
class EKFAC(KFAC):
    """M = U (S + λ) Uᵀ: an amortised eigenbasis, and second moments of the gradients in it, kept up to date.

    whole: where an input side is larger than this, in blocks or not, KFAC's inverses serve, since a rotation costs
        twice their product and a basis ten times an inverse.
    """

    whole: int = 1024

    def fit(self, player: MatrixPlayer, state: State) -> None:
        """As the base, and forget decompositions of the other kind, made with another ``whole``."""
        super().fit(player, state)
        if "A" in state and self.ready(state) and ("S" in state) != self.diagonalised(state):
            for name in DECOMPOSED:
                state.pop(name, None)

    def lay_out(self, player: MatrixPlayer, state: State) -> None:
        super().lay_out(player, state)
        if not self.diagonalised(state):
            return
        U_A, U_B, _ = (state.pop(name) for name in ("inverse_A", "inverse_B", "damping"))
        g, n_in, n_out = len(U_A), U_A.shape[1], U_B.shape[1]
        state.update(s_A=U_A.new_zeros(g, n_in), s_B=U_A.new_zeros(g, n_out), U_A=U_A)
        state.update({"U_B": U_B} if U_B.dim() == 3 else {})
        state["S"] = U_A.new_zeros(g, n_out, n_in)

    def diagonalised(self, state: State) -> bool:
        """Whether the player has an eigenbasis of its own rather than KFAC's inverses."""
        return state["A"].dim() == 3 and state["A"].shape[1] <= self.whole

    def correct(self, parts: Sequence[Evidence], state: State, keep: float, ranks: Ranks) -> None:
        if "S" in state:
            (S,) = ranks.total(squared_products(parts, state["U_A"], state.get("U_B")))
            average(state, "S", S, keep)

    def decompose(self, state: State, side: str, damping: float, tally: Tally) -> State:
        """Eigenvalues and eigenvectors; of a factor that is too large, its diagonal."""
        if not self.diagonalised(state):
            return super().decompose(state, side, damping, tally)
        X = state[side]
        found = eigenbasis(X, tally) if X.dim() == 3 else (X.clone(),)
        return dict(zip((f"s_{side}", f"U_{side}"), found, strict=False))

    def carry(self, state: State, found: State) -> State:
        """S in the new basis."""
        if not self.diagonalised(state):
            return super().carry(state, found)
        if "S" in state:
            return {"S": carried(state["S"], *(turn(found.get(name), state.get(name)) for name in ("U_A", "U_B")))}
        return {"S": found["s_B"][..., :, None] * found["s_A"][..., None, :]}

    def carry_cost(self, state: State) -> float:
        """A product with n³ terms for each basis that turns, and one of S with each."""
        if "S" not in state:
            return 0.0
        bases = [state[side] for side in SIDES if state[side].dim() == 3]
        return PRODUCT * sum(cubes(X) + state["S"].numel() * X.shape[-1] for X in bases)

    def adopt(self, state: State, found: State, damping: float) -> None:
        if not self.diagonalised(state):
            return super().adopt(state, found, damping)
        # All at once: an interrupt in between would leave S in one basis and U in another.
        return state.update(found)

    def blank(self, state: State, side: str) -> State:
        if not self.diagonalised(state):
            return super().blank(state, side)
        X = state[side]
        s = X.new_zeros(X.shape[:2])
        return {f"s_{side}": s, f"U_{side}": torch.zeros_like(X)} if X.dim() == 3 else {f"s_{side}": s}

    def cost(self, state: State, side: str) -> float:
        return BASIS * cubes(state[side]) if self.diagonalised(state) else super().cost(state, side)

    def stale(self, state: State, damping: float) -> bool:
        """λ enters with every solve in an eigenbasis, so that never goes stale by it."""
        return "S" not in state if self.diagonalised(state) else super().stale(state, damping)

    def ready(self, state: State) -> bool:
        return "S" in state or super().ready(state)

    def metric(self, player: MatrixPlayer, state: State, damping: float, scale: float) -> Metric:
        if "S" not in state:
            return super().metric(player, state, damping, scale)
        return EigenMetric(player, state["U_A"], state.get("U_B"), state["S"], damping, scale)
