"""The method written out: explicit Jacobians, matrix inverses and plain loops, in float64.

Nothing of ``ocnopt.core`` is used here. Shapes: N samples, r columns of the terminal factor, p parameters of a layer
(all of them flattened, one after the other); lists run over the layers in the order of their first call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

Limit = Callable[[Tensor], Tensor]


@dataclass
class Layer:
    """What a layer brings to the recursion.

    g (p,): Q_θ of the open loop.  W (N, r, p): rows (f_θᵀ Y_ij)ᵀ.  M (p, p): the metric.
    own_block: M holds the layer's own Gauss-Newton block.  previous (p,): the step that momentum holds.
    """

    g: Tensor
    W: Tensor
    M: Tensor
    own_block: bool = False
    previous: Tensor | None = None

    def gram(self) -> Tensor:
        """G_i = W_i M⁻¹ W_iᵀ, (N, r, r)."""
        inverse = torch.linalg.inv(self.M)
        return torch.stack([W @ inverse @ W.T for W in self.W])

    def whole(self, step: Tensor, fresh: float, ball: float) -> Tensor:
        """The step that will be taken, (p,)."""
        return fresh * step if self.previous is None else fresh * step + ball * self.previous


@dataclass
class Passes:
    """All intermediates by layer: a and e as they stand when the layer is reached, C as its policy uses it.

    Q, k, step (p,); a, e (N, r); C (N, r, r), coupled (R, R).  end (N, r): e behind the last layer.
    """

    Q: list[Tensor] = field(default_factory=list)
    k: list[Tensor] = field(default_factory=list)
    a: list[Tensor] = field(default_factory=list)
    C: list[Tensor] = field(default_factory=list)
    e: list[Tensor] = field(default_factory=list)
    step: list[Tensor] = field(default_factory=list)
    end: Tensor | None = None


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All entries, one tensor after the other, (p,)."""
    return torch.cat([x.reshape(-1) for x in tensors])


def parameters(module: nn.Module) -> list[Tensor]:
    """A layer's own parameters."""
    return list(module.parameters(recurse=False))


def gradients(loss: Tensor, layers: Sequence[nn.Module]) -> list[Tensor]:
    """∂L/∂θ_t of every layer, (p,)."""
    return [flat(torch.autograd.grad(loss, parameters(layer), retain_graph=True)) for layer in layers]


def sensitivities(output: Tensor, layers: Sequence[nn.Module], U: Tensor) -> list[Tensor]:
    """W (N, r, p) of every layer, by one derivative ∂(U_ijᵀ out_i)/∂θ_t per sample and column; U (r, N, ...)."""
    r, N = U.shape[:2]
    rows = [[gradients((U[j, i] * output[i]).sum(), layers) for j in range(r)] for i in range(N)]
    return [torch.stack([torch.stack([rows[i][j][t] for j in range(r)]) for i in range(N)]) for t in range(len(layers))]


def no_limit(c: Tensor) -> Tensor:
    return c


def limited(bound: float, coordinates: Tensor | None) -> Limit:
    """Control limits: |c_i| ≤ bound for Y = v, ‖c_i‖ ≤ bound·‖coordinates of v_i‖ otherwise."""

    def hold(c: Tensor) -> Tensor:
        rows = []
        for i in range(len(c)):
            most = bound if coordinates is None else bound * float(coordinates[i].norm())
            length = float(c[i].norm())
            rows.append(c[i] * (most / length) if length > most else c[i])
        return torch.stack(rows)

    return hold


def per_sample(
    layers: Sequence[Layer], C: Tensor, limit: Limit = no_limit, fresh=1.0, ball=0.0, weight: Tensor | None = None
) -> Passes:
    """One block C_i for each sample; where M holds the own block, the plain form with C passed on unchanged."""
    N, r, _ = layers[0].W.shape
    w = C.new_ones(N) if weight is None else weight
    out = Passes()
    a = layers[0].W.new_zeros(N, r)
    for layer in reversed(layers):
        held = limit(a)
        Q = layer.g + sum(w[i] * layer.W[i].T @ held[i] for i in range(N))
        k = -torch.linalg.inv(layer.M) @ Q
        if not layer.own_block:
            G = layer.gram()
            C = torch.stack([torch.linalg.inv(torch.linalg.inv(C[i]) + G[i]) for i in range(N)])
        note(out, Q=Q, k=k, a=a, C=C)
        move = layer.whole(k, fresh, ball)
        a = torch.stack([a[i] + C[i] @ layer.W[i] @ move for i in range(N)])

    e = layers[0].W.new_zeros(N, r)
    for t, layer in enumerate(layers):
        own = torch.zeros_like(out.k[t]) if layer.own_block else layer.whole(out.k[t], fresh, ball)
        c = torch.stack([out.C[t][i] @ (e[i] + layer.W[i] @ own) for i in range(N)])
        e = react(out, t, layer, c, e, limit, w, fresh, ball)
    out.end = e
    return out


def own_gains(layers: Sequence[Layer], C: Tensor, limit: Limit = no_limit, fresh=1.0, ball=0.0) -> Passes:
    """As DDPNOpt prints it, r = 1: sample i has its own gain k_i = −M⁻¹ f_θᵀ(v_i + Y_i a_i) in V_x, and C − C G C."""
    N = len(C)
    out = Passes()
    a = C.new_zeros(N, 1)
    for layer in reversed(layers):
        inverse = torch.linalg.inv(layer.M)
        held = limit(a)
        Q = layer.g + sum(layer.W[i].T @ held[i] for i in range(N))
        note(out, Q=Q, k=-inverse @ Q, a=a, C=C)
        gains = [-inverse @ layer.W[i].T @ (1 + a[i]) for i in range(N)]
        a = torch.stack([a[i] + C[i] @ layer.W[i] @ gains[i] for i in range(N)])
        C = (C - C @ layer.gram() @ C).clamp(min=0)

    e = C.new_zeros(N, 1)
    for t, layer in enumerate(layers):
        c = torch.stack([out.C[t][i] @ e[i] for i in range(N)])
        e = react(out, t, layer, c, e, limit, C.new_ones(N), fresh, ball)
    out.end = e
    return out


def coupled(
    layers: Sequence[Layer], C: Tensor, limit: Limit = no_limit, fresh=1.0, ball=0.0, weight: Tensor | None = None
) -> Passes:
    """The whole core over all samples and columns, R = N·r; M is a proximal metric whatever it holds."""
    N, r, _ = layers[0].W.shape
    C = torch.block_diag(*(C if weight is None else C * weight[:, None, None]))
    out = Passes()
    a = layers[0].W.new_zeros(N, r)
    for layer in reversed(layers):
        inverse, W = torch.linalg.inv(layer.M), layer.W.flatten(0, 1)
        Q = layer.g + W.T @ limit(a).flatten()
        k = -inverse @ Q
        C = torch.linalg.inv(torch.linalg.inv(C) + W @ inverse @ W.T)
        note(out, Q=Q, k=k, a=a, C=C)
        a = a + (C @ W @ layer.whole(k, fresh, ball)).view(N, r)

    e = layers[0].W.new_zeros(N, r)
    for t, layer in enumerate(layers):
        deviation = e.flatten() + layer.W.flatten(0, 1) @ layer.whole(out.k[t], fresh, ball)
        c = (out.C[t] @ deviation).view(N, r)
        e = react(out, t, layer, c, e, limit, C.new_ones(N), fresh, ball)
    out.end = e
    return out


def note(out: Passes, **values: Tensor) -> None:
    """Put what the backward pass found in front of what it found before."""
    for name, value in values.items():
        getattr(out, name).insert(0, value)


def react(
    out: Passes, t: int, layer: Layer, c: Tensor, e: Tensor, limit: Limit, w: Tensor, fresh: float, ball: float
) -> Tensor:
    """δθ = k − M⁻¹ Σ_i f_θᵀ Y_i c_i, with c held beside the a that Q_θ has already; e behind the layer."""
    c = limit(out.a[t] + c) - limit(out.a[t])
    correction = sum(w[i] * layer.W[i].T @ c[i] for i in range(len(c)))
    step = out.k[t] - torch.linalg.inv(layer.M) @ correction
    out.step.append(step)
    out.e.append(e)
    return e + layer.W @ layer.whole(step, fresh, ball)
