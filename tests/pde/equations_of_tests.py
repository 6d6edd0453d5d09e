"""Small networks on jets, their plain twins, and an equation that is not linear."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ocnopt.pde import ACTIVATIONS, Condition, Directions, Jet, JetNetwork, Residual
from ocnopt.pde.layers import JetActivation

PLAIN: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


class Sin(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(x)


def plain(network: JetNetwork) -> nn.Sequential:
    """The network without derivatives, from torch's own layers with the same parameters."""
    names = {kind: name for name, kind in ACTIVATIONS.items()}
    layers = [
        {**PLAIN, "sin": Sin}[names[type(layer)]]()
        if isinstance(layer, JetActivation)
        else nn.Linear(layer.in_features, layer.out_features).double()
        for layer in network.layers
    ]
    twin = nn.Sequential(*layers)
    twin.load_state_dict(network.layers.state_dict())
    return twin


def points(count: int, dim: int = 2, seed: int = 0) -> Tensor:
    return torch.rand(count, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def nonlinear(x: Tensor, u: Jet) -> Tensor:
    """u_xx + u u_y − sin x."""
    return u.second[:, 0] + u.value * u.first[:, 1] - torch.sin(x[:, :1])


def fixed(x: Tensor, u: Jet) -> Tensor:
    """u = x y."""
    return u.value - x.prod(1, keepdim=True)


def model(seed: int = 0, activation: str = "tanh") -> Residual:
    """30 points of an equation, 10 where the value is given, with another weight."""
    torch.manual_seed(seed)
    network = JetNetwork([2, 7, 6, 1], activation, Directions.axes(2, twice=1))
    return Residual(network, [Condition(points(30), nonlinear), Condition(points(10, seed=1), fixed, weight=4.0)])
