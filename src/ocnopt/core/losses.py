"""What the output side of the trajectory says about the loss: its weight per sample and its curvature.

After a plain ``loss.backward()`` only the root output h and its cotangent v are known. A softmax
cross-entropy gives itself away: v = s (p − t) with p = softmax(h), for a target t that is a
distribution. From s and t follow the tight rank-one bound of the output's Gauss-Newton matrix along
v, and label samples of the Fisher matrix.

    C = 1 / (vᵀ H⁺ v),  H = s (diag p − p pᵀ)   ⇒   C = 1 / (s χ²),  χ² = Σ_j (p_j − t_j)² / p_j

is the largest core for which v C vᵀ ⪯ H. For a class label it is p_y / (s (1 − p_y)), the
true-vs-rest factor of arXiv 2605.06081; it also covers soft targets and label smoothing. Exact for a change
of the logits along H⁺v, it sees nothing of the other K − 2 dimensions, in which every sample's logits move by the
steps made for all others: a core between C and the one of the trace of H allows for those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """A softmax cross-entropy seen at the root output.

    p, t: probabilities and targets, (B, K, ...).  s: weight of each label, (B, 1, ...); zero where ignored.
    logits: False where the output is already a log-softmax, whose cotangent is −s t.
    dtype: of the output.
    y: class labels (B, 1, ...) where t is one-hot there, so that one entry of p tells all.
    """

    p: Tensor
    t: Tensor
    s: Tensor
    logits: bool = True
    dtype: torch.dtype = torch.float32
    y: Tensor | None = None

    def head(self, m: int) -> SoftmaxCrossEntropy:
        """That of the first m samples."""
        y = None if self.y is None else self.y[:m]
        return replace(self, p=self.p[:m], t=self.t[:m], s=self.s[:m], y=y)

    def core(self, across: float = 0.0) -> Tensor:
        """C (B,) with v C vᵀ ⪯ H, tight; 0 where the residual has underflowed.

        across: how much of the way to the trace of H, see ``traces``. Beyond 0 the core is no bound.
        """
        tiny = torch.finfo(self.p.dtype).tiny
        χ2 = (self.p - self.t).square() / self.p.clamp(min=tiny)
        length = (self.s * χ2).flatten(1).sum(1)
        C = torch.where(length > 1e-30, 1 / length.clamp(min=1e-30), 0.0)
        return C * (1 + across * (self.traces(χ2) - 1)) if across else C

    def traces(self, χ2: Tensor) -> Tensor:
        """tr H over tr(v C vᵀ), (B,), at least 1; the mean over a sample's labels, weighted by their shares of s χ².

        For one label it is χ² (1 − |p|²)/|p − t|²: K − 1 where all of K classes are as likely, and 1 for two.
        """
        χ2, residual = χ2.sum(1), (self.p - self.t).square().sum(1)
        tiny = torch.finfo(self.p.dtype).tiny
        ratio = χ2 * (1 - self.p.square().sum(1)).clamp(min=0) / residual.clamp(min=tiny)
        share, ratio = (x.reshape(len(x), -1) for x in (self.s.squeeze(1) * χ2, ratio))
        mean = (share * ratio).sum(1) / share.sum(1).clamp(min=tiny)
        return mean.clamp(min=1.0)

    def counted(self) -> tuple[int, float]:
        """How many labels there are, those that are ignored left out, and the cross-entropy Σ s t·(−log p)."""
        p, t = (self.p, self.t) if self.y is None else (self.p.gather(1, self.y), 1.0)
        loss = (self.s * t * -p.clamp(min=torch.finfo(p.dtype).tiny).log()).sum()
        labels, found = torch.stack([(self.s > 0).sum().to(loss), loss]).tolist()
        return int(labels), found

    def sample(self, generator: torch.Generator) -> Tensor:
        """A column u = √s (p − e_y) with y drawn from p, shaped like the output: E[u uᵀ] = H."""
        p = self.p.movedim(1, -1)
        y = torch.multinomial(p.reshape(-1, p.shape[-1]).cpu(), 1, generator=generator).to(p.device)
        e_y = p.new_zeros(len(y), p.shape[-1]).scatter_(1, y, 1.0).view(p.shape).movedim(-1, 1)
        return (self.s.sqrt() * (self.p - e_y if self.logits else -e_y)).to(self.dtype)


class Moved(SoftmaxCrossEntropy):
    """Classes in dimension 1 here, in the last dimension at the output."""

    def sample(self, generator: torch.Generator) -> Tensor:
        return super().sample(generator).movedim(1, -1)
