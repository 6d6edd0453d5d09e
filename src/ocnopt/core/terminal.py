"""Terminal factors: (1/B)∇²φ_i ≈ Y C Yᵀ at the output, the boundary condition of the Bellman pass.

Rank one costs nothing: Y = v, the gradient that backpropagation carries anyway, and only its core C
is chosen. Higher rank takes one extra backward pass per column (``optimizer.backward``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from .recognition import is_of_labels, recognise
from .trajectory import Sweep

MAX_RANK = 4096


class Factor(NamedTuple):
    """columns: r cotangents shaped like the output, none for Y = v.  core: (B, r, r).

    root: of a diagonal H, shaped like the output, where it is known. With random signs it is a draw of the curvature.
    """

    columns: list[Tensor]
    core: Tensor | None
    coordinates: Tensor | None = None
    root: Tensor | None = None


class Terminal(Protocol):
    """A choice of Y and C."""

    def factor(self, loss: Tensor, output: Tensor, generator: torch.Generator) -> Factor:
        """Y and C from a loss and the output it was computed from, before the backward pass."""
        ...

    def core(self, sweep: Sweep, batch: int) -> tuple[Tensor | float, str]:
        """C (B,) or one number for Y = v after the backward pass, and in words which factor it is.

        Raises ValueError when the trajectory does not hold what the factor needs.
        """
        ...


@dataclass(frozen=True)
class Gradient:
    """Gradient outer product, the paper's choice: Y = v, C = β·B."""

    beta: float = 1.0

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise ValueError(f"Gradient(beta={self.beta}) must not be negative.")

    def factor(self, loss: Tensor, output: Tensor, generator: torch.Generator) -> Factor:
        return Factor([], None)

    def core(self, sweep: Sweep, batch: int) -> tuple[Tensor | float, str]:
        return self.beta * batch, f"gradient, beta={self.beta:g}"


@dataclass(frozen=True)
class TrueVsRest:
    """The tight rank-one lower bound of the output's Gauss-Newton matrix along v: Y = v, C = 1/(vᵀH⁺v).

    For class labels it is the true-vs-rest factor (arXiv 2605.06081), exact for two classes. Losses
    that act on every output entry by itself (squared error, logistic) have it too. Where such a loss is linear in some
    entries, as a flow's is in the change of the density, no multiple of v vᵀ lies below H: then Y is v without them.

    across: for class labels, how much of the way from the bound (0) to the trace of H (1) the core goes. The bound
        sees no change of the logits across v, so that steps made from it alone go too far where such changes are large,
        as in the first steps of a convolutional network.
    """

    across: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.across <= 1:
            raise ValueError(f"TrueVsRest(across={self.across}) must lie in [0, 1].")

    def factor(self, loss: Tensor, output: Tensor, generator: torch.Generator) -> Factor:
        diagonal = elementwise(loss, output)
        if diagonal is None:
            return Factor([], None)
        v, h = diagonal
        curved = h > torch.finfo(h.dtype).eps * h.amax()
        C = bound(v * curved, h)
        if bool(((v == 0) | curved).all()):
            return Factor([], C[:, None, None], root=h.sqrt())
        length = C.sqrt().view(-1, *(1,) * (v.dim() - 1))
        c_v = torch.where(C > 0, C.rsqrt(), 0.0)
        return Factor([v * curved * length], torch.ones_like(C)[:, None, None], c_v[:, None], h.sqrt())

    def core(self, sweep: Sweep, batch: int) -> tuple[Tensor | float, str]:
        if sweep.core is not None:
            return sweep.core[:, 0, 0], "true-vs-rest"
        if sweep.seen is not None:
            return sweep.seen.core(self.across), "true-vs-rest"
        raise ValueError(
            "terminal='true-vs-rest' found no softmax cross-entropy at the model's output; call "
            "optimizer.backward(loss, output) instead of loss.backward(), or choose terminal='gradient'."
        )


@dataclass(frozen=True)
class GaussNewton:
    """Exact Gauss-Newton: Y the square root of each sample's output Hessian, C = I, by double backward.

    One column per output entry of a sample; columns that vanish on the whole batch are left out.
    Negative eigenvalues of a loss that is not convex in its output are dropped.
    """

    def factor(self, loss: Tensor, output: Tensor, generator: torch.Generator) -> Factor:
        root = root_of(output_hessian(loss, output))
        return Factor(columns_of(root, output), identity_core(root), coordinates(loss, output, root))

    def core(self, sweep: Sweep, batch: int) -> tuple[Tensor | float, str]:
        raise ValueError(needs_backward("gauss-newton"))


@dataclass(frozen=True)
class Fisher:
    """Sampled Fisher of rank r: gradients at r labels drawn from the model, with the B/r of C taken into Y.

    For a softmax cross-entropy the labels are drawn from the predicted classes; otherwise Y is the
    square root of the output Hessian times standard normal draws, which for a squared error is the same
    thing (labels from a Gaussian around the output).
    """

    rank: int = 1

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"Fisher(rank={self.rank}) needs at least one column.")

    def factor(self, loss: Tensor, output: Tensor, generator: torch.Generator) -> Factor:
        (v,) = torch.autograd.grad(loss, output, retain_graph=True)
        seen = recognise(output, v)
        if seen is None:
            return self.normal_draws(loss, output, generator)
        columns = [seen.sample(generator).to(output.dtype) / self.rank**0.5 for _ in range(self.rank)]
        Y = torch.stack([column.flatten(1) for column in columns], dim=-1)
        return Factor(columns, identity_core(Y), coordinates(loss, output, Y))

    def normal_draws(self, loss: Tensor, output: Tensor, generator: torch.Generator) -> Factor:
        root = root_of(output_hessian(loss, output))
        draws = torch.randn(len(root), root.shape[2], self.rank, generator=generator, dtype=torch.float64)
        sketch = root @ draws.to(root) / self.rank**0.5
        return Factor(columns_of(sketch, output), identity_core(sketch), coordinates(loss, output, sketch))

    def core(self, sweep: Sweep, batch: int) -> tuple[Tensor | float, str]:
        raise ValueError(needs_backward("fisher"))


@dataclass(frozen=True)
class Auto:
    """True-vs-rest where the loss shows it, part of the way to the trace of H; else the gradient with a small β.

    across: see ``TrueVsRest``.
    many: with a value that can use it (coupled), ``optimizer.backward`` takes exact Gauss-Newton for up
        to this many output entries per sample.
    """

    beta: float = 0.01
    many: int = 0
    across: float = 0.6

    def factor(self, loss: Tensor, output: Tensor, generator: torch.Generator) -> Factor:
        if output.dim() and output[0].numel() <= self.many:
            return GaussNewton().factor(loss, output, generator)
        if is_of_labels(loss, output):  # whose H is not diagonal: nothing to look for
            return Factor([], None)
        return TrueVsRest().factor(loss, output, generator)

    def core(self, sweep: Sweep, batch: int) -> tuple[Tensor | float, str]:
        if sweep.seen is None and sweep.core is None:
            return Gradient(self.beta).core(sweep, batch)
        return TrueVsRest(self.across).core(sweep, batch)


def needs_backward(name: str) -> str:
    return (
        f"terminal={name!r} has more than one column, which a plain loss.backward() cannot carry; "
        "call optimizer.backward(loss, output) in its place."
    )


def output_hessian(loss: Tensor, output: Tensor) -> Tensor:
    """∂²L/∂h_i² of every sample, (B, K, K) for K output entries; exact where the loss is a sum over samples."""
    B, K = output.shape[0], output[0].numel()
    if K > MAX_RANK:
        raise ValueError(f"Exact Gauss-Newton of {K} outputs per sample is too large; choose terminal='true-vs-rest'.")
    (g,) = torch.autograd.grad(loss, output, create_graph=True)
    H = output.new_zeros(B, K, K)
    if g.requires_grad:
        for j in range(K):
            (row,) = torch.autograd.grad(g.flatten(1)[:, j].sum(), output, retain_graph=True, materialize_grads=True)
            H[:, j] = row.flatten(1)
    return (H + H.mT) / 2


def root_of(H: Tensor) -> Tensor:
    """Y with Y Yᵀ = H on its positive part, (B, K, r): columns that vanish for every sample are left out."""
    values, vectors = torch.linalg.eigh(H)
    floor = torch.finfo(H.dtype).eps * values.abs().amax() * H.shape[-1]
    used = (values > floor).any(0)
    if not bool(used.any()):
        used[-1] = True
    return (vectors * values.clamp(min=0).sqrt()[:, None])[:, :, used]


def columns_of(Y: Tensor, output: Tensor) -> list[Tensor]:
    """(B, K, r) as r tensors shaped like the output."""
    return [column.reshape(output.shape) for column in Y.unbind(-1)]


def identity_core(Y: Tensor) -> Tensor:
    """C = I for every sample, (B, r, r)."""
    return torch.eye(Y.shape[-1], dtype=Y.dtype, device=Y.device).expand(len(Y), -1, -1)


def coordinates(loss: Tensor, output: Tensor, Y: Tensor) -> Tensor:
    """The coordinates c_v of v in the columns, v ≈ Y c_v by least squares, (B, r)."""
    (v,) = torch.autograd.grad(loss, output, retain_graph=True)
    return (torch.linalg.pinv(Y) @ v.flatten(1).unsqueeze(-1)).squeeze(-1)


def elementwise(loss: Tensor, output: Tensor) -> tuple[Tensor, Tensor] | None:
    """v and the diagonal of H for a loss that is a convex function of every output entry by itself, else None.

    Whether H is diagonal is tested with random signs u: (Hu)∘u = H1 for a diagonal H and, almost surely,
    for no other.
    """
    (v,) = torch.autograd.grad(loss, output, create_graph=True)
    if not v.requires_grad:
        return None
    signs = torch.empty_like(v).bernoulli_(0.5, generator=seeded(v)).mul_(2).sub_(1)
    (ones,) = torch.autograd.grad(v.sum(), output, retain_graph=True, materialize_grads=True)
    (mixed,) = torch.autograd.grad((v * signs).sum(), output, retain_graph=True, materialize_grads=True)
    diagonal = torch.allclose(mixed * signs, ones, rtol=1e-3, atol=1e-6 * float(ones.abs().max()))
    return (v.detach(), ones) if diagonal and bool((ones >= 0).all()) else None


def bound(v: Tensor, h: Tensor) -> Tensor:
    """1/(vᵀH⁻¹v) of every sample for a diagonal H, (B,)."""
    tiny = torch.finfo(v.dtype).tiny
    length = (v.square() / h.clamp(min=tiny)).flatten(1).sum(1)
    return torch.where(length > tiny * 1e6, 1 / length.clamp(min=tiny * 1e6), 0.0)


def seeded(like: Tensor) -> torch.Generator:
    """A generator of its own, so that the test for a diagonal Hessian draws nothing from the user's."""
    return torch.Generator(device=like.device).manual_seed(0)
