"""A softmax cross-entropy gives itself away: by its graph, or by the cotangent v = s (p − t) at the root output h."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .losses import Moved, SoftmaxCrossEntropy

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 5e-2}
SHAPING = ("View", "UnsafeView", "ReshapeAlias", "Transpose", "Permute", "Unsqueeze", "Clone", "T", "ToCopy")
"""Operations that only lay the entries of a tensor out in another way, or store them in another precision."""
FEW = 2
"""Samples by which the dimension of the classes is guessed."""


def is_of_labels(loss: Tensor, output: Tensor) -> bool:
    """Whether the graph shows the loss as torch's cross-entropy of this output with class labels, and nothing else.

    The output may have been laid out in another way before, as those of language models are. Asks no tensor anything;
    False where the loss is computed in another way.
    """
    node: Any = loss.grad_fn
    if node is None or node.name() not in ("NllLossBackward0", "NllLoss2DBackward0"):
        return False
    *_, (before, _) = layouts(node)
    if before is None or before.name() != "LogSoftmaxBackward0" or before._saved_dim != 1:
        return False
    return before._saved_result.shape[1] > 1 and (output.grad_fn, output.output_nr) in layouts(before)


def layouts(node: Any) -> Iterator[tuple[Any, int]]:
    """The edge that the input of a node comes by, and those before it as far as only the layout changes."""
    before, nr = node.next_functions[0]
    yield before, nr
    while before is not None and before.name().removesuffix("Backward0") in SHAPING:
        before, nr = before.next_functions[0]
        yield before, nr


def recognise(h: Tensor, v: Tensor, scale: float = 1.0) -> SoftmaxCrossEntropy | None:
    """The cross-entropy behind root output h and cotangent v, shapes (B, K, ...), or None if it is not one.

    scale: what the loss was multiplied with, without which soft targets cannot be told.
    Classes lie in dimension 1, as torch's cross_entropy has them, or for (B, T, K) outputs in the last.
    """
    if h.dim() < 2 or not h.is_floating_point():
        return None
    if h.dim() == 2:
        return recognise_at(h, v, scale)
    ways = recognise_last, recognise_at
    for way in ways if last_is_likelier(v) else reversed(ways):
        if (seen := way(h, v, scale)) is not None:
            return seen
    return None


def last_is_likelier(v: Tensor) -> bool:
    """Whether v = s (p − t) sums to zero over the last dimension rather than over dimension 1, by a few samples."""
    few = v[:FEW].detach().float()
    return bool(few.sum(-1).abs().sum() < few.sum(1).abs().sum())


def recognise_last(h: Tensor, v: Tensor, scale: float) -> SoftmaxCrossEntropy | None:
    """``recognise`` with the classes in the last dimension."""
    seen = recognise_at(h.movedim(-1, 1), v.movedim(-1, 1), scale)
    return None if seen is None else Moved(**vars(seen))


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
    p = softmax(h)
    y = v.argmin(1, keepdim=True)
    p_y, v_y, rest = p.gather(1, y), v.gather(1, y), others(v, y)
    # The other entries give s without the cancellation in 1 − p_y.
    s = (rest / others(p, y).clamp(min=torch.finfo(p.dtype).tiny)).nan_to_num(posinf=0.0)
    s = torch.where(1 - p_y > 1e-6, s, s.amax())
    s = s * ((v_y != 0) | (rest != 0))
    found = explains((s * p).scatter_add_(1, y, -s), v, tolerance) & (s >= 0).all()
    return SoftmaxCrossEntropy(p, torch.zeros_like(p).scatter_(1, y, 1.0), s, y=y) if bool(found) else None


def softmax(h: Tensor) -> Tensor:
    """Over dimension 1, laid out as h is: along the last dimension where the classes lie side by side."""
    return h.movedim(1, -1).softmax(-1).movedim(-1, 1) if h.stride(1) == 1 else h.softmax(1)


def others(x: Tensor, y: Tensor) -> Tensor:
    """Σ_{j≠y} x_j, summed without the true class so that it does not cancel, (B, 1, ...)."""
    return x.clone().scatter_(1, y, 0.0).sum(1, keepdim=True)


def of_distributions(h: Tensor, v: Tensor, tolerance: float, scale: float) -> SoftmaxCrossEntropy | None:
    """v = (p − t)/n with soft targets t under a mean over n labels: t = p − n v must be a distribution."""
    p = softmax(h)
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
