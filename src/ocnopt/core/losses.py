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

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}


@dataclass(frozen=True)
class SoftmaxCrossEntropy:
    """A softmax cross-entropy seen at the root output.

    p, t: probabilities and targets, (B, K, ...).  s: weight of each label, (B, 1, ...); zero where ignored.
    logits: False where the output is already a log-softmax, whose cotangent is −s t.
    dtype: of the output.
    """

    p: Tensor
    t: Tensor
    s: Tensor
    logits: bool = True
    dtype: torch.dtype = torch.float32

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
        loss = (self.s * self.t * -self.p.clamp(min=torch.finfo(self.p.dtype).tiny).log()).sum()
        labels, found = torch.stack([(self.s > 0).sum().to(loss), loss]).tolist()
        return int(labels), found

    def sample(self, generator: torch.Generator) -> Tensor:
        """A column u = √s (p − e_y) with y drawn from p, shaped like the output: E[u uᵀ] = H."""
        p = self.p.movedim(1, -1)
        y = torch.multinomial(p.reshape(-1, p.shape[-1]).cpu(), 1, generator=generator).to(p.device)
        e_y = p.new_zeros(len(y), p.shape[-1]).scatter_(1, y, 1.0).view(p.shape).movedim(-1, 1)
        return (self.s.sqrt() * (self.p - e_y if self.logits else -e_y)).to(self.dtype)


def is_of_labels(loss: Tensor, output: Tensor) -> bool:
    """Whether the graph shows the loss as torch's cross-entropy of this output with class labels, and nothing else.

    Asks no tensor anything; False where it is computed in another way.
    """
    node = loss.grad_fn
    if node is None or node.name() not in ("NllLossBackward0", "NllLoss2DBackward0"):
        return False
    before = node.next_functions[0][0]
    if before is None or before.name() != "LogSoftmaxBackward0" or before._saved_dim != 1:  # type: ignore[attr-defined]
        return False
    return output.shape[1] > 1 and before.next_functions[0] == (output.grad_fn, output.output_nr)


def recognise(h: Tensor, v: Tensor, scale: float = 1.0) -> SoftmaxCrossEntropy | None:
    """The cross-entropy behind root output h and cotangent v, shapes (B, K, ...), or None if it is not one.

    scale: what the loss was multiplied with, without which soft targets cannot be told.
    Classes lie in dimension 1, as torch's cross_entropy has them; for (B, T, K) outputs they are looked
    for in the last.
    """
    if h.dim() < 2 or not h.is_floating_point():
        return None
    seen = recognise_at(h, v, scale)
    if seen is None and h.dim() > 2:
        seen = recognise_at(h.movedim(-1, 1), v.movedim(-1, 1), scale)
        seen = seen and moved_back(seen)
    return seen


def recognise_at(h: Tensor, v: Tensor, scale: float) -> SoftmaxCrossEntropy | None:
    """``recognise`` with the classes in dimension 1."""
    if h.shape[1] < 2:
        return None
    tolerance, dtype = TOLERANCE.get(v.dtype, 1e-3), h.dtype
    h, v = (x.detach().to(torch.promote_types(x.dtype, torch.float32)) for x in (h, v))
    seen = of_labels(h, v, tolerance) or of_distributions(h, v, tolerance, scale) or of_log_softmax(h, v, tolerance)
    return None if seen is None else replace(seen, dtype=dtype)


def of_labels(h: Tensor, v: Tensor, tolerance: float) -> SoftmaxCrossEntropy | None:
    """v = s (p − e_y), s per label: class weights, ignored labels and any reduction are covered."""
    p = h.softmax(1)
    y = v.argmin(1, keepdim=True)
    t = torch.zeros_like(p).scatter_(1, y, 1.0)
    rest = 1 - p.gather(1, y)
    # The largest other entry gives s without the cancellation in 1 − p_y.
    s = (v.masked_fill(t.bool(), 0).sum(1, keepdim=True) / rest_of(p, t)).nan_to_num(posinf=0.0)
    s = torch.where(rest > 1e-6, s, s.amax())
    s = s * (v != 0).any(1, keepdim=True)
    found = explains(s * (p - t), v, tolerance) & (s >= 0).all()
    return SoftmaxCrossEntropy(p, t, s) if bool(found) else None


def rest_of(p: Tensor, t: Tensor) -> Tensor:
    """Σ_{j≠y} p_j, summed without the true class so that it does not cancel."""
    return (p * (1 - t)).sum(1, keepdim=True).clamp(min=torch.finfo(p.dtype).tiny)


def of_distributions(h: Tensor, v: Tensor, tolerance: float, scale: float) -> SoftmaxCrossEntropy | None:
    """v = (p − t)/n with soft targets t under a mean over n labels: t = p − n v must be a distribution."""
    p = h.softmax(1)
    n = p.numel() / p.shape[1] / scale
    t = p - n * v
    sound = t.min() >= -tolerance and (v.sum(1).abs() <= tolerance * v.abs().sum(1)).all() and v.abs().sum() > 0
    if not bool(sound):
        return None
    return SoftmaxCrossEntropy(p, t.clamp(min=0), torch.full_like(p[:, :1], 1 / n))


def of_log_softmax(h: Tensor, v: Tensor, tolerance: float) -> SoftmaxCrossEntropy | None:
    """Output log p and cotangent −s e_y, from log_softmax followed by nll_loss."""
    p = h.exp()
    normalised = (p.sum(1) - 1).abs().max() <= tolerance
    t = (v < 0).to(p.dtype)
    s = -v.sum(1, keepdim=True)
    if not bool(normalised & (t.sum(1) <= 1).all() & explains(-s * t, v, tolerance)):
        return None
    return SoftmaxCrossEntropy(p, t, s, logits=False)


def explains(expected: Tensor, v: Tensor, tolerance: float) -> Tensor:
    """Whether ‖expected − v‖ ≤ tolerance·‖v‖, for a v that is finite and not zero."""
    length = v.norm()
    return ((expected - v).norm() <= tolerance * length) & (length > 0)


def moved_back(seen: SoftmaxCrossEntropy) -> SoftmaxCrossEntropy:
    """The same with the classes in the last dimension again."""
    return Moved(seen.p, seen.t, seen.s, seen.logits, seen.dtype)


class Moved(SoftmaxCrossEntropy):
    """Classes in dimension 1 here, in the last dimension at the output."""

    def sample(self, generator: torch.Generator) -> Tensor:
        return super().sample(generator).movedim(1, -1)
