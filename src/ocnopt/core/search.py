"""How far to step: the Bellman quadratic along a few directions, and the damping that keeps it honest.

Along directions d^j the objective of the Bellman pass is a quadratic in their coefficients α, and
its coefficients are sums of responses that the passes already made (DESIGN, section 2):

    b_j = ⟨p.grad, d^j⟩        R_i^j = Σ_t resp(Y, d_t^j)_i
    minimise  b·α + ½ αᵀ(Rᵀ C R + λ DᵀD) α,   0 ≤ α ≤ 1

Two directions, the policy's step and the previous step (heavy ball), give the step length and the
momentum coefficient together, as in the K-FAC optimizer (Martens and Grosse, arXiv 1503.05671, 6.4
and 7), with the true-vs-rest or Gauss-Newton core in place of a second pass over the data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import torch
from torch import Tensor

from .ranks import ALONE, Ranks

LIMITS = (0.2, 50.0)
"""Of the factor of a ``Calibration``."""

LOWEST = 1e-3
"""λ goes no lower by itself, however many labels there are: those of one sample are not independent."""


@dataclass(frozen=True)
class Quadratic:
    """b·α + ½ αᵀ H α over the coefficients α of m directions: b (m,), H (m, m)."""

    b: Tensor
    H: Tensor

    def is_finite(self) -> bool:
        return bool(self.b.isfinite().all() & self.H.isfinite().all())

    def value(self, alpha: Tensor) -> Tensor:
        """The predicted change of the loss."""
        return self.b @ alpha + 0.5 * alpha @ self.H @ alpha

    def minimum(self, upper: tuple[float, ...]) -> Tensor:
        """argmin over 0 ≤ α ≤ upper, (m,) for m ≤ 2: the best of the faces' own minima that lie in the box.

        A direction of zero length gets the coefficient zero. In plain numbers: two directions are too few
        for tensors to pay.
        """
        b, H = self.b.tolist(), self.H.tolist()
        candidates = [*product(*((0.0, top) for top in upper)), *edges(b, H, upper), *interior(b, H)]
        inside = [a for a in candidates if all(0.0 <= x <= top for x, top in zip(a, upper, strict=True))]
        return self.b.new_tensor(min(inside, key=lambda a: change(b, H, a)))


def change(b: list[float], H: list[list[float]], alpha: tuple[float, ...]) -> float:
    """b·α + ½ αᵀ H α."""
    slope = sum(x * a for x, a in zip(b, alpha, strict=True))
    return slope + 0.5 * sum(alpha[i] * H[i][j] * alpha[j] for i in range(len(b)) for j in range(len(b)))


def edges(b: list[float], H: list[list[float]], upper: tuple[float, ...]) -> Iterator[tuple[float, ...]]:
    """Minima with one coefficient free and the other, if there is one, at a bound."""
    for free in range(len(b)):
        if H[free][free] <= 0:
            continue
        for bound in product(*((0.0, top) for k, top in enumerate(upper) if k != free)):
            pull = sum(H[free][1 - free] * x for x in bound)
            at = -(b[free] + pull) / H[free][free]
            yield (*bound[:free], at, *bound[free:])


def interior(b: list[float], H: list[list[float]]) -> Iterator[tuple[float, ...]]:
    """The unconstrained minimum of two coefficients, by Cramer's rule; none where H is singular."""
    if len(b) == 2 and (det := H[0][0] * H[1][1] - H[0][1] ** 2) > 0:
        yield (b[1] * H[0][1] - b[0] * H[1][1]) / det, (b[0] * H[0][1] - b[1] * H[0][0]) / det


def bellman_quadratic(
    b: Tensor, R: Tensor, C: Tensor, overlap: Tensor, damping: float, ranks: Ranks = ALONE
) -> Quadratic:
    """The model along m directions, from the samples of all ranks.

    b: (m,). R: (m, N, r) responses. C: (N, r, r) terminal core, each row weighted by the samples it
    stands for. overlap: DᵀD, (m, m).
    """
    return Quadratic(b, output_curvature(R, C, ranks) + damping * overlap)


def output_curvature(R: Tensor, C: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """Rᵀ C R along m directions, (m, m), from the samples of all ranks."""
    R = R.to(C)
    (curvature,) = ranks.total(torch.einsum("anr,nrs,bns->ab", R, C, R))
    return curvature


@dataclass(frozen=True)
class Model:
    """Options of search="model", where lr multiplies the step that the quadratic proposes.

    longest: upper bounds of the step length and of the heavy-ball coefficient.
    damping: where λ ends up when all goes well; None for ``noise``/B with a batch of B labels, one for each sample or
        each position of one: along directions of little curvature a step is the noise of the gradient over λ, and that
        noise is as 1/B.
    start: λ of the first step (the careful start), and the largest.
    measured: where λ goes on once the curvature along a step has been measured, if it is not that small yet.
    relative: λ is a curvature, of the loss's own dimension. Under a squared error and the like, whose size is a matter
        of units and which ``optimizer.backward`` recognises, it counts in this part of the running loss.
    promise: the largest share of a cross-entropy, which is never negative, that the model may promise to
        remove in one step; a step that promises more is shortened in that proportion.
    shrinkage: weight decay, for each unit of step, where the loss is a softmax cross-entropy and the metric a
        Kronecker one. With M near the Fisher matrix that is a penalty of shrinkage/2·θᵀMθ, on the size of the logits:
        natural steps fit small batches so well that without it they grow too sure of themselves.
    calibration: averaging coefficient of the curvature measured along steps, see ``Calibration``; 1 leaves C as it is.
    decay: factor on λ after a good step.  growth: factor after a step that went too far.
    overshoot: the running overshoot (see ``Trust``) above which λ grows.
    memory: averaging coefficient of the overshoot.
    """

    longest: tuple[float, float] = (1.0, 1.0)
    damping: float | None = None
    noise: float = 2.0
    start: float = 1.0
    measured: float = 0.5
    relative: float = 0.1
    promise: float = 1.0
    shrinkage: float = 0.03
    calibration: float = 0.8
    decay: float = 0.85
    growth: float = 1.5
    overshoot: float = 0.5
    memory: float = 0.9
    default_lr: ClassVar[float] = 0.7

    def __post_init__(self) -> None:
        optional = () if self.damping is None else ("damping",)
        for name in ("noise", "start", "measured", "relative", "promise", *optional):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"Model({name}={value}) must be a positive number.")
        if not (0 < self.decay <= 1 <= self.growth):
            raise ValueError(f"Model needs 0 < decay ≤ 1 ≤ growth, not decay={self.decay}, growth={self.growth}.")
        if not 0 <= self.calibration <= 1:
            raise ValueError(f"Model(calibration={self.calibration}) must lie in [0, 1].")
        for name in ("memory", "shrinkage"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"Model({name}={getattr(self, name)}) must lie in [0, 1).")

    def first(self, lr: float) -> float:
        """α₁ that feedback expects before there has been a search."""
        return 1.0

    def along(self, quadratic: Quadratic, lr: float) -> Quadratic:
        """What is minimised over α; parameters move by lr·α, and here lr plays no part in the choice.

        lr: the rate, without what a scheduler has made of it.
        """
        return quadratic

    def believable(self, quadratic: Quadratic, loss: float | None) -> Tensor:
        """The coefficients of the quadratic's minimum, shortened to what can be believed of them."""
        alpha = quadratic.minimum(self.longest)
        promised = -float(quadratic.value(alpha))
        if loss is None or promised <= self.promise * loss:
            return alpha
        return alpha * (self.promise * loss / promised)

    def shrinkage_of(self, cross_entropy: float | None) -> float:
        """What the weights lose for each unit of step; nothing where no cross-entropy was seen."""
        return 0.0 if cross_entropy is None else self.shrinkage

    def unit(self, loss: float) -> float:
        """What λ = 1 means, from the running loss; 1 where that is not to be had."""
        return self.relative * loss if loss > 0 else 1.0

    def floor(self, batch: int) -> float:
        """The smallest λ for batches of so many labels, no larger than the first."""
        return min(max(self.noise / batch, LOWEST), self.start) if self.damping is None else self.damping


@dataclass(frozen=True)
class Bounded(Model):
    """Options of search="bounded": lr is the longest step, and the quadratic only ever shortens it.

    The minimum is that over 0 ≤ lr·α ≤ lr·longest. Where lr is small it is the step, as with search="fixed"; where it
    is large it does nothing, and steps are those of the quadratic. A scheduler does not lower the bound, it shortens
    every step in proportion: otherwise a falling rate would mean nothing where the bound is far away.
    noise: λ may go lower than where nothing bounds the steps.
    """

    noise: float = 0.3
    default_lr: ClassVar[float] = 0.25

    def first(self, lr: float) -> float:
        """A whole step, if lr allows it."""
        return 1.0 / max(1.0, lr)

    def along(self, quadratic: Quadratic, lr: float) -> Quadratic:
        """The same along lr·d^j."""
        return Quadratic(lr * quadratic.b, lr**2 * quadratic.H)


@dataclass
class Calibration:
    """What C is multiplied with, so that a rank-one factor holds as much curvature along steps as there is.

    A core stands for H by its value on v alone. Where draws u of H are at hand, E[u uᵀ] = H, the curvature along a step
    is Σ_i (u_iᵀ δh_i)² in expectation; its running sum over that of Σ_i C_i (v_iᵀ δh_i)² is the factor.
    """

    drawn: float = 0.0
    modelled: float = 0.0

    @property
    def factor(self) -> float:
        """Within limits: neither sum is more than an estimate."""
        lowest, highest = LIMITS
        return max(lowest, min(highest, self.drawn / self.modelled)) if self.modelled > 0 else 1.0

    def observe(self, drawn: float, modelled: float, keep: float) -> None:
        """Average both sums; those that are not finite are left out."""
        if math.isfinite(drawn) and math.isfinite(modelled):
            self.drawn = keep * self.drawn + (1 - keep) * drawn
            self.modelled = keep * self.modelled + (1 - keep) * modelled


@dataclass
class Trust:
    """How far the quadratic is trusted, learned without an extra pass.

    The slope along the step just taken, measured on the next batch, which that step has not seen: a step
    to the minimum of the true objective leaves none, one that went too far leaves a positive one.
    overshoot averages slope after / |slope before|; λ decays while it is small and grows while it is large.
    """

    damping: float
    overshoot: float = 0.0
    slope: float = 0.0

    def observe(self, slope_after: float, model: Model, batch: int) -> None:
        """Adapt λ from ⟨p.grad on the new batch, last step⟩."""
        if self.slope < 0 and math.isfinite(slope_after):
            ratio = max(-3.0, min(3.0, slope_after / -self.slope))
            self.overshoot = model.memory * self.overshoot + (1 - model.memory) * ratio
        if self.overshoot > model.overshoot:
            self.damping = min(self.damping * model.growth, model.start)
        else:
            self.damping = max(self.damping * model.decay, model.floor(batch))
