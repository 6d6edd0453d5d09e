"""Levenberg-Marquardt written out: the damped Gauss-Newton step, what it promises and what it brings, all dense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass
class Dense:
    """One step from θ: δθ (p,), by how much the objective should fall and does, and the objective behind it."""

    step: Tensor
    predicted: float
    actual: float
    objective: float


@dataclass
class Problem:
    """A network, its batch and loss.  rates (p,): of every entry of θ.  decay: γ of ½γ|θ|².

    curved: of how many samples the curvature is, whose mean stands for that of all.
    """

    net: nn.Module
    x: Tensor
    y: Tensor
    loss: Loss = nn.functional.mse_loss
    rates: Tensor | float = 1.0
    decay: float = 0.0
    curved: int | None = None

    def theta(self) -> Tensor:
        return nn.utils.parameters_to_vector(self.net.parameters()).detach()

    def output(self, theta: Tensor) -> Tensor:
        shapes = {name: p.shape for name, p in self.net.named_parameters()}
        parts = theta.split([shape.numel() for shape in shapes.values()])
        pairs = zip(shapes.items(), parts, strict=True)
        return torch.func.functional_call(self.net, {name: part.view(shape) for (name, shape), part in pairs}, self.x)

    def objective(self, theta: Tensor) -> Tensor:
        return self.loss(self.output(theta), self.y) + 0.5 * self.decay * theta @ theta

    def gauss_newton(self, theta: Tensor) -> Tensor:
        """JᵀHJ + γI, (p, p)."""
        part = replace(self, x=self.x[: self.curved], y=self.y[: self.curved])
        out = part.output(theta).detach()
        J = torch.func.jacrev(lambda t: part.output(t).flatten())(theta)
        H = torch.func.hessian(lambda h: self.loss(h.view_as(out), part.y))(out.flatten())
        return J.T @ H @ J + self.decay * torch.eye(len(theta), dtype=theta.dtype)

    def gradient(self, theta: Tensor) -> Tensor:
        return torch.func.grad(self.objective)(theta)

    def step(self, theta: Tensor, damping: float, length: float = 1.0) -> Dense:
        """α times the rates times −(JᵀHJ + γI + λI)⁻¹g; the prediction is that of the quadratic without λ."""
        g, H = self.gradient(theta), self.gauss_newton(theta)
        d = -length * self.rates * torch.linalg.solve(H + damping * torch.eye(len(g), dtype=g.dtype), g)
        predicted = -(g @ d + 0.5 * d @ H @ d)
        before, after = self.objective(theta), self.objective(theta + d)
        return Dense(d, float(predicted), float(before - after), float(after))

    def second(self, theta: Tensor, damping: float, stride: float = 0.0) -> Tensor:
        """δ₂ = −½(JᵀHJ + γI + λI)⁻¹ JᵀH h″ (p,), h″ along the rates times δ₁: exact, or by differences of a stride."""
        part = replace(self, x=self.x[: self.curved], y=self.y[: self.curved])
        along, out = self.step(theta, damping).step, part.output(theta).detach()

        def velocity(t: Tensor) -> Tensor:
            return torch.func.jvp(part.output, (t,), (along,))[1]

        if stride:
            bent = 2 / stride * ((part.output(theta + stride * along) - out) / stride - velocity(theta))
        else:
            bent = torch.func.jvp(velocity, (theta,), (along,))[1]
        J = torch.func.jacrev(lambda t: part.output(t).flatten())(theta)
        H = torch.func.hessian(lambda h: self.loss(h.view_as(out), part.y))(out.flatten())
        A = self.gauss_newton(theta) + damping * torch.eye(len(theta), dtype=theta.dtype)
        return -0.5 * torch.linalg.solve(A, J.T @ (H @ bent.flatten().detach()))


def nielsen(damping: float, ratios: Sequence[float | None], growth: float = 2.0) -> list[float]:
    """λ over tries by algorithm 3.16 of Madsen, Nielsen and Tingleff (2004); None stands for a refused one."""
    mu, nu, out = damping, growth, [damping]
    for ratio in ratios:
        if ratio is None:
            mu, nu = mu * nu, 2 * nu
        else:
            mu, nu = mu * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 2.0
        out.append(mu)
    return out
