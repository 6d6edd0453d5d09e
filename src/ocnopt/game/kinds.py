"""Kinds of game that players of a stage can play: what metric their coalition moves in."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

from torch import Tensor

from ..core.stage import Metric, Stage
from ..curvature.decompositions import dampings
from ..curvature.diagonal import State
from ..curvature.metrics import EigenMetric, MatrixMetric
from ..linalg.symmetric import Tally, add_diagonal
from .cross import Cross, has_whole_factors, recall, recall_turned
from .metrics import BlockDiagonal, Joint, Pair
from .product import ProductForm


@dataclass(frozen=True)
class Deal:
    """What a kind of game has to go by: the members' stages and states, and λ."""

    members: Sequence[Stage]
    states: Sequence[State]
    damping: float
    tally: Tally

    def cross(self, recall: Callable[[State, str, State], Cross | None]) -> dict[Pair, Cross]:
        """The cross blocks that are known, by the numbers of their players; none where a factor is a diagonal."""
        whole = [j for j, state in enumerate(self.states) if has_whole_factors(state)]
        pairs = combinations(whole, 2)
        found = {(u, v): recall(self.states[u], self.members[v].label, self.states[v]) for u, v in pairs}
        return {pair: P for pair, P in found.items() if P is not None}

    @property
    def lengths(self) -> list[int]:
        return [len(member.gradient) for member in self.members]

    @property
    def matrices(self) -> list[MatrixMetric]:
        """Their metrics, where all are of Kronecker form; else none."""
        found: list[MatrixMetric] = [m.metric for m in self.members if isinstance(m.metric, MatrixMetric)]
        return found if len(found) == len(self.members) else []


class Kind(Protocol):
    """A kind of game. cooperates: whether it wants cross blocks, which only Kronecker curvatures have."""

    cooperates: bool

    def metric(self, deal: Deal) -> Metric: ...


@dataclass(frozen=True)
class FeedbackNash:
    """Each player takes its own block: its answer to the state, blind to what the others do at its stage."""

    cooperates = False

    def metric(self, deal: Deal) -> Metric:
        return BlockDiagonal([member.metric for member in deal.members], deal.lengths)


@dataclass(frozen=True)
class Cooperative:
    """All players of a stage together, exactly: conjugate gradients on the block Kronecker system.

    tolerance: of the residual, in the norm of the preconditioner (the own blocks), relative to the start.
    iterations: the most that are made.
    """

    tolerance: float = 1e-2
    iterations: int = 8
    cooperates = True

    def __post_init__(self) -> None:
        if not (0 < self.tolerance < 1 and math.isfinite(self.tolerance)):
            raise ValueError(f"Cooperative(tolerance={self.tolerance}) must lie between 0 and 1.")
        if self.iterations < 1:
            raise ValueError(f"Cooperative(iterations={self.iterations}) must be at least 1.")

    def metric(self, deal: Deal) -> Metric:
        blocks, cross = deal.matrices, deal.cross(recall_turned)
        if not cross or not blocks:
            return FeedbackNash().metric(deal)
        pairs = zip(blocks, deal.states, strict=True)
        weights = [corrected(block, state, deal.damping) for block, state in pairs]
        return Joint(blocks, deal.lengths, cross, weights, self.tolerance, self.iterations, deal.tally)


@dataclass(frozen=True)
class ProductCooperative:
    """The published product form of the cooperative step.

    corrected: its length is that which minimises the joint quadratic; False for the step as printed.
    """

    corrected: bool = True
    cooperates = True

    def metric(self, deal: Deal) -> Metric:
        blocks, cross = deal.matrices, deal.cross(recall)
        if not cross or not blocks or not all(map(has_whole_factors, deal.states)):
            return FeedbackNash().metric(deal)
        damped = [damped_factors(state, deal.damping) for state in deal.states]
        A, B = [A for A, _ in damped], [B for _, B in damped]
        return ProductForm(blocks, deal.lengths, A, B, cross, self.corrected, deal.tally)


def corrected(block: MatrixMetric, state: State, damping: float) -> Tensor | None:
    """R with R (s_B ⊗ s_A + λ) R = S + λ: how EKFAC has corrected the eigenvalues of A ⊗ B; None for KFAC.

    With cross blocks R P Rᵀ the joint matrix is R (𝔸 ⊗ 𝔹 + λ) Rᵀ, which stays positive definite.
    """
    if not isinstance(block, EigenMetric):
        return None
    young = state["s_B"][..., :, None] * state["s_A"][..., None, :]
    return ((block.S + damping) / (young + damping)).sqrt()


def damped_factors(state: State, damping: float) -> tuple[Tensor, Tensor]:
    """A + π√λ I and B + √λ/π I of an ungrouped layer."""
    A, B = state["A"], state["B"]
    own = zip((A, B), dampings(A, B, damping), strict=True)
    A, B = (add_diagonal(X, d)[0] for X, d in own)
    return A, B


KINDS: dict[str, Callable[[], Kind | None]] = {
    "off": lambda: None,
    "feedback-nash": FeedbackNash,
    "cooperative": Cooperative,
    "cooperative-product": ProductCooperative,
}
"""Short names, as the façade and the command line accept them."""
