"""How the value Hessian V_xx = Y C Yᵀ is kept over the samples of a batch (DESIGN, section 2).

Per sample, C is one small block for each sample (the paper's choice); coupled, it is the whole
matrix over all samples, since they share the controls. Y never changes its span, so C is all
there is to propagate: the shrink (C⁻¹ + G)⁻¹ with G = (f_θᵀY)ᵀ M⁻¹ (f_θᵀY).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..linalg.cores import shrink, shrink_first_order
from ..linalg.symmetric import Tally
from .gram import coupled_gram, sample_gram
from .stage import Samples, Stage


class Backed(NamedTuple):
    """What a stage leaves behind: the core its policy reacts with, and (C, a) of the stage before it."""

    policy_C: Tensor
    C: Tensor
    a: Tensor


class Value(Protocol):
    """The places where the kinds of value differ."""

    @property
    def by_sample(self) -> bool:
        """Whether a part of the batch can stand for all of it."""
        ...

    @property
    def faint(self) -> float:
        """Below which fraction of their layer's root-mean-square gradients those of a bias count as rounding."""
        ...

    def start(self, C: Tensor, samples: Samples) -> tuple[Tensor, Samples]:
        """Per-sample blocks of the terminal core (N, r, r), as this value counts samples, and their layout."""
        ...

    def whole(self, blocks: Tensor) -> Tensor:
        """The terminal core of these blocks, in the form that the recursion keeps it in."""
        ...

    def weigh(self, C: Tensor, x: Tensor) -> Tensor:
        """C x for x (N, r)."""
        ...

    def meet(self, stage: Stage, C: Tensor, a: Tensor | None, own: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """(C, a) behind the stage as its player meets them; own (N, r): coordinates of v in Y, None for Y = v."""
        ...

    def backward(self, stage: Stage, C: Tensor, a: Tensor, response: Tensor) -> Backed:
        """(C, a) before the stage from (C, a) after it, given resp(Y, k)."""
        ...

    def deviation(self, stage: Stage, e: Tensor | None, response: Tensor) -> Tensor | None:
        """What the stage's policy reacts to, given resp(Y, k) and the deviation e so far; None stands for zero."""
        ...


class PerSample:
    """C (N, r, r): one block for each sample.

    A metric that holds the layer's own Gauss-Newton block already paid for the sample's own response, so
    there the plain form of the recursion applies and C passes unchanged. (Shrinking it there too is nearer to
    the dense solution at a unit step, but costs the Gram matrix of every layer and measured no better.)
    """

    by_sample = True
    faint = 1e-3

    def meet(self, stage: Stage, C: Tensor, a: Tensor | None, own: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return C, a

    def start(self, C: Tensor, samples: Samples) -> tuple[Tensor, Samples]:
        return C, samples

    def whole(self, blocks: Tensor) -> Tensor:
        return blocks

    def weigh(self, C: Tensor, x: Tensor) -> Tensor:
        return C[:, 0] * x if C.shape[-1] == 1 else torch.einsum("nrs,ns->nr", C, x)

    def backward(self, stage: Stage, C: Tensor, a: Tensor, response: Tensor) -> Backed:
        if not stage.metric.contains_own_block:
            C = shrink(C, sample_gram(stage))
        return Backed(C, C, a + self.weigh(C, response))

    def deviation(self, stage: Stage, e: Tensor | None, response: Tensor) -> Tensor | None:
        return e if stage.metric.contains_own_block else accumulated(e, response)


class OwnGains(PerSample):
    """The printed DDPNOpt recursion: each sample's own gain in V_x and the first-order shrink of V_xx.

    Kept for experiments that compare; it over-counts the shared control (DESIGN, fact 4). Rank
    one, Y = v. Cores that the printed shrink would make negative are held at zero and counted.
    """

    by_sample = False

    def __init__(self, tally: Tally | None = None) -> None:
        self.tally = Tally() if tally is None else tally

    def backward(self, stage: Stage, C: Tensor, a: Tensor, response: Tensor) -> Backed:
        if stage.rank != 1:
            raise ValueError(f"value='own-gains' needs a terminal factor of rank 1, not {stage.rank}; see terminal=.")
        G = sample_gram(stage)
        own = -G[:, 0] * (1 + a)  # resp(Y_i, k_i) of the sample's own k_i = −M⁻¹ f_θᵀ(v_i + Y_i a_i)
        shrunk, held = shrink_first_order(C, G)
        self.tally["cores held at zero"] += held
        return Backed(C, shrunk, a + self.weigh(C, own))

    def deviation(self, stage: Stage, e: Tensor | None, response: Tensor) -> Tensor | None:
        return e


class Coupled:
    """C (R, R), R = N·r: exact for the batch, since −(κJᵀHJ + M)⁻¹g is one solve for all samples."""

    by_sample = False
    faint = 1e-6  # exact otherwise

    def meet(self, stage: Stage, C: Tensor, a: Tensor | None, own: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return C, a

    def start(self, C: Tensor, samples: Samples) -> tuple[Tensor, Samples]:
        if samples.weight is not None:
            C = C * samples.weight[:, None, None]
        return C, Samples(samples.rows)

    def whole(self, blocks: Tensor) -> Tensor:
        return torch.block_diag(*blocks)

    def weigh(self, C: Tensor, x: Tensor) -> Tensor:
        return (C @ x.flatten()).view_as(x)

    def backward(self, stage: Stage, C: Tensor, a: Tensor, response: Tensor) -> Backed:
        C = shrink(C, coupled_gram(stage))
        return Backed(C, C, a + self.weigh(C, response))

    def deviation(self, stage: Stage, e: Tensor | None, response: Tensor) -> Tensor | None:
        return accumulated(e, response)


def accumulated(e: Tensor | None, response: Tensor) -> Tensor:
    """e + response, where None stands for zero."""
    return response if e is None else e + response
