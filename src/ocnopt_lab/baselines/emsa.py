"""E-MSA: the extended method of successive approximations (Li, Chen, Tai, E, JMLR 18, 2018).

With states x_{t+1} = f_t(x_t, θ_t) and costates p_T = −∂Φ, p_t = ∂H_t/∂x of the present parameters, each layer by
itself maximises the augmented Hamiltonian, a mean over the samples,

    H_t(x, p, θ) = p · f_t(x, θ) − (γ/2)|θ|²
    H̃_t(θ) = H_t(x_t, p_{t+1}, θ) − (ρ/2)|x_{t+1} − f_t(x_t, θ)|² − (ρ/2)|p_t − ∂H_t/∂x|²

whose last two terms keep states and costates near those of the parameters they were computed with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim

from ocnopt_lab.baselines.chain import ChainOptimizer, Parameters, Stage, chain_of, require_small

LARGEST = 2**18
"""Most parameters of one layer: a maximisation evaluates it some dozen times."""


@dataclass(frozen=True, eq=False)
class Hamiltonian:
    """−H̃ of one stage.

    x, y: states before and behind it.  p, q: costates behind and before it.  All (B, ...), per sample: without 1/B.
    """

    stage: Stage
    x: Tensor
    y: Tensor
    p: Tensor
    q: Tensor
    penalty: float
    decay: float

    def negative(self, parameters: Parameters) -> Tensor:
        """−H̃(θ), one number; its gradient at the parameters of the states is that of the loss."""
        x = self.x.detach().requires_grad_()
        f = self.stage(x, parameters)
        products = (self.p * f).sum()
        (costate,) = torch.autograd.grad(products, x, create_graph=True)
        misfit = (self.y - f).square().sum() + (self.q - costate).square().sum()
        length = sum((theta.square().sum() for theta in parameters.values()), start=torch.zeros(()))
        return (0.5 * self.penalty * misfit - products) / len(x) + 0.5 * self.decay * length


class EMSA(ChainOptimizer):
    """Each layer's augmented Hamiltonian is maximised by L-BFGS, from the present parameters.

    lr: 1/ρ. The larger it is, the further a layer may move the states.  iterations: of L-BFGS.
    """

    def __init__(self, model: nn.Module, lr: float = 1.0, weight_decay: float = 0.0, iterations: int = 10) -> None:
        stages = chain_of(model, "E-MSA")
        require_small(stages, LARGEST, "E-MSA")
        super().__init__(model, stages, lr, weight_decay)
        self.iterations = iterations

    def update(self, states: list[Tensor], gradient: Tensor, more: Any) -> None:
        hamiltonians = self.hamiltonians(states, gradient)
        found = [self.maximised(hamiltonian) for hamiltonian in hamiltonians]
        for stage, parameters in zip(self.stages, found, strict=True):
            for name, p in stage.parameters.items():
                p.copy_(parameters[name])

    def hamiltonians(self, states: list[Tensor], gradient: Tensor) -> list[Hamiltonian]:
        """Of all stages, at the present parameters."""
        group = self.param_groups[0]
        costates = [-len(gradient) * gradient]
        for stage, x in zip(reversed(self.stages), reversed(states[:-1]), strict=True):
            costates.append(stage.pull_back(x, costates[-1]))
        costates.reverse()
        parts = zip(self.stages, states, states[1:], costates[1:], costates, strict=False)
        return [Hamiltonian(*part, 1 / group["lr"], group["weight_decay"]) for part in parts]

    def maximised(self, hamiltonian: Hamiltonian) -> Parameters:
        """Parameters with a larger H̃; the present ones where L-BFGS finds none that are finite."""
        start = hamiltonian.stage.parameters
        parameters = {name: p.detach().clone().requires_grad_() for name, p in start.items()}
        solver = optim.LBFGS(list(parameters.values()), max_iter=self.iterations, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            solver.zero_grad()
            value = hamiltonian.negative(parameters)
            value.backward()
            return value

        with torch.enable_grad():
            solver.step(closure)
        return parameters if all(bool(p.isfinite().all()) for p in parameters.values()) else start
