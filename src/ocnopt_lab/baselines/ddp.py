"""Differential dynamic programming as it stands in textbooks, with every matrix formed (Jacobson and Mayne, 1970).

The state is that of the whole batch, x (B·n), since the samples share the controls. Backwards, with V(x') the quadratic
model of the value behind the stage and Q(x, θ) = V(f(x, θ)) + (γ/2)|θ|²,

    k = −(Q_θθ + μ)⁻¹ Q_θ        K = −(Q_θθ + μ)⁻¹ Q_θx
    V_x = Q_x + Q_xθ k           V_xx = Q_xx + Q_xθ K

Forwards, θ ← θ + k + K(x' − x), where x' is what the stages before have made of the input with their new parameters.
Second derivatives are exact, those of f included. Where Q_θθ + μ is not positive definite, μ is raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jacrev

from ocnopt.core.terminal import output_hessian
from ocnopt_lab.baselines.chain import ChainOptimizer, Parameters, Stage, chain_of, require_small

LARGEST = 4096
"""Most rows of a matrix: parameters of a layer, or entries of the batch's state between two layers."""
_CHUNK = 512
_TRIES, _FACTOR = 30, 4.0


@dataclass(frozen=True)
class Value:
    """V_x (m,) and V_xx (m, m) at a state of m entries, float64."""

    x: Tensor
    xx: Tensor


@dataclass(frozen=True)
class Expansion:
    """Q of one stage: Q_θ (p,), Q_θθ (p, p), and with x, None at the first stage, Q_x, Q_θx (p, m), Q_xx (m, m)."""

    theta: Tensor
    theta_theta: Tensor
    x: Tensor | None = None
    theta_x: Tensor | None = None
    xx: Tensor | None = None


@dataclass(frozen=True)
class Gains:
    """The policy δθ = k + K δx: k (p,), K (p, m), None at the first stage, where nothing deviates."""

    k: Tensor
    K: Tensor | None


@dataclass(frozen=True)
class Flat:
    """A stage as a function of vectors: f(x, θ) for x (m,) and θ (p,), in float64."""

    stage: Stage
    shape: torch.Size
    decay: float

    def theta(self) -> Tensor:
        """The present parameters."""
        return torch.cat([p.detach().flatten() for p in self.stage.parameters.values()]).double()

    def parameters(self, theta: Tensor) -> Parameters:
        """By name."""
        own = self.stage.parameters
        parts = theta.split([p.numel() for p in own.values()])
        return {name: part.view_as(p) for (name, p), part in zip(own.items(), parts, strict=True)}

    def __call__(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.stage(x.view(self.shape), self.parameters(theta)).flatten()

    def expanded(self, x: Tensor, value: Value, first: bool) -> Expansion:
        """Derivatives of Q at (x, θ)."""
        theta, end = self.theta(), self(x, self.theta())

        def q(theta: Tensor, x: Tensor) -> Tensor:
            change = self(x, theta) - end
            return value.x @ change + 0.5 * change @ (value.xx @ change) + 0.5 * self.decay * theta.square().sum()

        wanted = (0,) if first else (0, 1)
        slopes = jacrev(q, argnums=wanted)(theta, x)
        curvatures = jacrev(jacrev(q, argnums=wanted), argnums=wanted, chunk_size=_CHUNK)(theta, x)
        if first:
            return Expansion(slopes[0], curvatures[0][0])
        return Expansion(slopes[0], curvatures[0][0], slopes[1], curvatures[0][1], curvatures[1][1])


class DenseDDP(ChainOptimizer):
    """One sweep of differential dynamic programming for each batch.

    lr: 1/μ, as for a gradient step of that length where the loss is flat.
    """

    def __init__(self, model: nn.Module, lr: float = 0.1, weight_decay: float = 0.0) -> None:
        stages = chain_of(model, "Dense DDP")
        require_small(stages, LARGEST, "Dense DDP")
        super().__init__(model, stages, lr, weight_decay)

    def terminal(self, loss: Tensor, output: Tensor) -> tuple[Tensor, Any]:
        """∂L/∂output, and ∂²L/∂output² of every sample."""
        gradient = torch.autograd.grad(loss, output, retain_graph=True)[0]
        return gradient, output_hessian(loss, output).detach()

    def update(self, states: list[Tensor], gradient: Tensor, more: Any) -> None:
        decay = self.param_groups[0]["weight_decay"]
        flat = [Flat(stage, x.shape, decay) for stage, x in zip(self.stages, states, strict=False)]
        nominal = [x.double().flatten() for x in states[:-1]]
        require_states(nominal)
        value = Value(gradient.double().flatten(), torch.block_diag(*more.double()))
        policies = self.backward_pass(flat, nominal, value)
        for stage, theta in zip(flat, self.forward_pass(flat, nominal, policies), strict=True):
            for p, new in zip(stage.stage.parameters.values(), stage.parameters(theta).values(), strict=True):
                p.copy_(new)

    def backward_pass(self, stages: list[Flat], nominal: list[Tensor], value: Value) -> list[Gains]:
        """The policies of all stages, in forward order."""
        policies = []
        for t in reversed(range(len(stages))):
            expansion = stages[t].expanded(nominal[t], value, first=t == 0)
            gains = gains_of(expansion, 1 / self.param_groups[0]["lr"])
            policies.append(gains)
            if t:
                value = value_of(expansion, gains)
        return policies[::-1]

    def forward_pass(self, stages: list[Flat], nominal: list[Tensor], policies: list[Gains]) -> list[Tensor]:
        """New parameters of all stages, each in answer to the state that the ones before have led to."""
        x, found = nominal[0], []
        for stage, reference, gains in zip(stages, nominal, policies, strict=True):
            deviation = 0.0 if gains.K is None else gains.K @ (x - reference)
            found.append(stage.theta() + gains.k + deviation)
            x = stage(x, found[-1])
        return found


def gains_of(expansion: Expansion, mu: float) -> Gains:
    """k and K with the smallest μ, from the given one on by factors, that makes Q_θθ + μ positive definite."""
    eye = torch.eye(len(expansion.theta), dtype=torch.float64)
    for _ in range(_TRIES):
        factor, failed = torch.linalg.cholesky_ex(expansion.theta_theta + mu * eye)
        if not bool(failed):
            break
        mu *= _FACTOR
    else:
        return Gains(torch.zeros_like(expansion.theta), None)
    k = -torch.cholesky_solve(expansion.theta[:, None], factor)[:, 0]
    return Gains(k, None if expansion.theta_x is None else -torch.cholesky_solve(expansion.theta_x, factor))


def value_of(expansion: Expansion, gains: Gains) -> Value:
    """V_x and V_xx in front of the stage."""
    theta_x, x, xx = expansion.theta_x, expansion.x, expansion.xx
    assert theta_x is not None and x is not None and xx is not None
    reaction = xx if gains.K is None else xx + theta_x.T @ gains.K
    return Value(x + theta_x.T @ gains.k, 0.5 * (reaction + reaction.T))


def require_states(nominal: list[Tensor]) -> None:
    """Raises ValueError where a batch is too large; the input of the network has no V_xx."""
    for x in nominal[1:]:
        if len(x) > LARGEST:
            raise ValueError(
                f"Dense DDP is for batches whose states have at most {LARGEST} entries together, and one has {len(x)}."
            )
