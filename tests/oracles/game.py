"""Joint curvature of layers that share a stage, written out: explicit rows, loops over positions, dense matrices.

Nothing of ``ocnopt.game`` is used here. Parameters of the players of a stage lie flattened one player after the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import dense
import metrics
import torch
from torch import Tensor, nn


class TwoBranches(nn.Module):
    """A stem, two parallel layers that add up, a head; without a nonlinearity where ``act`` is the identity."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(5, 4)
        self.head, self.act = nn.Linear(4, 3), act

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        return self.head(self.act(self.left(x) + self.right(x.flip(1) + 0.3)))


class ThreeBranches(nn.Module):
    """Three layers of different width side by side."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 5)
        self.a, self.b, self.c = nn.Linear(5, 2), nn.Linear(5, 3, bias=False), nn.Linear(5, 1)
        self.head, self.act = nn.Linear(6, 3), act

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        return self.head(self.act(torch.cat([self.a(x), self.b(x - 0.5), self.c(x.flip(1))], 1)))


class ConvShortcut(nn.Module):
    """Two 3x3 convolutions, the first strided, beside a strided 1x1 shortcut."""

    def __init__(self, first_stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 3, 3, first_stride, padding=1)
        self.conv2 = nn.Conv2d(3, 3, 3, 2 // first_stride, padding=1, bias=False)
        self.shortcut = nn.Conv2d(2, 3, 1, 2)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.conv2(self.conv1(x).tanh()) + self.shortcut(x)).tanh().flatten(1))


class Mixed(nn.Module):
    """A convolution beside a linear layer that sees the same image at once, and a second one at every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear, self.pixel = nn.Conv2d(2, 3, 3, 2, padding=1), nn.Linear(32, 12), nn.Linear(2, 3)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.pixel(x.movedim(1, -1)).movedim(-1, 1)[:, :, ::2, ::2].flatten(1)
        return self.head((self.conv(x).flatten(1) + self.linear(x.flatten(1)) + pixels).tanh())


def rows(net: nn.Module, layer: nn.Module, x: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    """Z (B, P, n_in) and U (r, B, P, n_out) of a layer that is called once; U: columns (r, B, K) at the output."""
    output, calls = metrics.calls_of(net, layer, x)
    ((z, h),) = calls
    columns = [torch.autograd.grad(output, h, column, retain_graph=True)[0] for column in U]
    Z = metrics.input_rows(layer, z)[0].detach()
    return Z, torch.stack([metrics.output_rows(layer, u)[0] for u in columns])


def cross(net: nn.Module, pair: Sequence[nn.Module], x: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    """A_uv = E[z z'ᵀ] and B_uv = Σ u u'ᵀ; where positions differ, means of z meet, and sums of u over √P."""
    (Z, Y), (Z2, Y2) = (rows(net, layer, x, U) for layer in pair)
    if Z.shape[1] != Z2.shape[1]:
        Y, Y2 = (y.sum(2, keepdim=True) / y.shape[2] ** 0.5 for y in (Y, Y2))
        Z, Z2 = (z.mean(1, keepdim=True) for z in (Z, Z2))
    A, B = torch.zeros(Z.shape[-1], Z2.shape[-1]).double(), torch.zeros(Y.shape[-1], Y2.shape[-1]).double()
    for i in range(Z.shape[0]):
        for p in range(Z.shape[1]):
            A += torch.outer(Z[i, p], Z2[i, p]) / (Z.shape[0] * Z.shape[1])
            for j in range(len(Y)):
                B += torch.outer(Y[j, i, p], Y2[j, i, p])
    return A, B


def scattered(pair: Sequence[nn.Module], A: Tensor, B: Tensor) -> Tensor:
    """A_uv ⊗ B_uv over the flattened parameters of both, (p_u, p_v)."""
    at, at2 = (metrics.places(layer).flatten() for layer in pair)
    M = A.new_zeros(len(at), len(at2))
    M[at[:, None], at2] = torch.kron(B, A)
    return M


def joint(blocks: Sequence[Tensor], crosses: dict[tuple[int, int], Tensor]) -> Tensor:
    """[M_u P_uv …; P_vu M_v …; …]."""
    sizes = [len(M) for M in blocks]
    rows = [[M.new_zeros(len(M), n) for n in sizes] for M in blocks]
    for u, M in enumerate(blocks):
        rows[u][u] = M
    for (u, v), P in crosses.items():
        rows[u][v], rows[v][u] = P, P.T
    return torch.cat([torch.cat(row, 1) for row in rows])


def gauss_newton(net: nn.Module, layers: Sequence[nn.Module], x: Tensor, U: Tensor) -> Tensor:
    """Σ over samples and columns of the joint gradients' outer products, from explicit Jacobians."""
    W = dense.sensitivities(net(x), layers, U)
    J = torch.cat([w.flatten(0, 1) for w in W], 1)
    return J.T @ J


def disturbed(V_x: Tensor, V_xx: Tensor, cost: float) -> tuple[Tensor, Tensor]:
    """max_w V_xᵀw + ½ wᵀV_xx w − ½ cost |w|² around a state: gradient and Hessian of what is left, dense."""
    gain = V_xx @ torch.linalg.inv(cost * torch.eye(len(V_x)).to(V_x) - V_xx)
    return V_x + gain @ V_x, V_xx + gain @ V_xx
