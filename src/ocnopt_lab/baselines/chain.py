"""Networks as chains x_{t+1} = f_t(x_t, θ_t), for optimizers that need every stage as a function."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.func import functional_call

from ocnopt_lab.baselines.kind import evaluated

Parameters = dict[str, Tensor]
_RANDOM = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True, eq=False)
class Stage:
    """A layer with the modules without parameters that follow it."""

    module: nn.Sequential

    @property
    def parameters(self) -> Parameters:
        """By name, as they are now."""
        return dict(self.module.named_parameters())

    def __call__(self, x: Tensor, parameters: Parameters) -> Tensor:
        """f(x, θ) for x (B, ...)."""
        return functional_call(self.module, parameters, (x,))

    def pull_back(self, x: Tensor, p: Tensor) -> Tensor:
        """f_xᵀ p at the present parameters: (B, ...) shaped like x."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(self(x, self.parameters), x, p)[0]


def chain_of(model: nn.Module, who: str) -> list[Stage]:
    """The stages of a sequential model; what stands before the first layer belongs to its stage.

    Raises ValueError, naming ``who`` needs it, for models that are no chain of deterministic layers.
    """
    groups: list[list[nn.Module]] = [[]]
    for module in _leaves(model, who):
        if any(True for _ in module.parameters()) and any(_trains(groups[-1])):
            groups.append([])
        groups[-1].append(module)
    if not any(_trains(groups[-1])):
        raise ValueError(f"{who} found no layer with parameters.")
    return [Stage(nn.Sequential(*group)) for group in groups]


def _trains(group: list[nn.Module]) -> Iterator[bool]:
    return (True for module in group for _ in module.parameters())


def _leaves(model: nn.Module, who: str) -> Iterator[nn.Module]:
    if isinstance(model, nn.Sequential):
        for child in model:
            yield from _leaves(child, who)
        return
    if any(True for _ in model.children()):
        raise ValueError(f"{who} needs a chain of layers in nn.Sequential; {type(model).__name__} is none.")
    if isinstance(model, _RANDOM) or any(True for _ in model.buffers()):
        raise ValueError(f"{who} needs layers that are functions of their input alone; {type(model).__name__} is none.")
    yield model


def require_small(stages: list[Stage], largest: int, who: str) -> None:
    """Raises ValueError where a layer has more parameters than that."""
    for stage in stages:
        if (size := sum(p.numel() for p in stage.parameters.values())) > largest:
            raise ValueError(f"{who} is for layers of at most {largest} parameters, and one has {size}.")


class ChainOptimizer(optim.Optimizer):
    """Keeps what a step needs of the passes before it: the input, the loss and the output.

    Call ``backward(loss, output)`` in place of ``loss.backward()``.
    """

    def __init__(self, model: nn.Module, stages: list[Stage], lr: float, weight_decay: float) -> None:
        for name, value in (("lr", lr), ("weight_decay", weight_decay)):
            if not 0 <= value < float("inf"):
                raise ValueError(f"{name}={value} must not be negative.")
        super().__init__(model.parameters(), {"lr": lr, "weight_decay": weight_decay})
        self.stages = stages
        self.entered: Tensor | None = None
        self.seen: tuple[Tensor, Any] | None = None
        model.register_forward_pre_hook(self._enter)

    def _enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():
            self.entered = args[0].detach()

    def backward(self, loss: Tensor, output: Tensor) -> None:
        """As ``loss.backward()``; output (B, ...) is what the loss was computed from."""
        self.seen = self.terminal(loss, output)
        loss.backward()

    def terminal(self, loss: Tensor, output: Tensor) -> tuple[Tensor, Any]:
        """The terminal condition: ∂L/∂output (B, ...), and what else the method takes from the loss."""
        return torch.autograd.grad(loss, output, retain_graph=True)[0], None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of all stages; nothing moves at a rate of zero."""
        loss = evaluated(closure)
        if self.seen is None or self.entered is None:
            raise RuntimeError(f"{type(self).__name__} needs optimizer.backward(loss, output) before each step.")
        if self.param_groups[0]["lr"] > 0 and bool(self.seen[0].isfinite().all()):
            self.update(self.states(self.entered), *self.seen)
        self.seen = None
        return loss

    def states(self, x: Tensor) -> list[Tensor]:
        """x_0, …, x_T at the present parameters."""
        states = [x]
        for stage in self.stages:
            states.append(stage(states[-1], stage.parameters))
        return states

    def update(self, states: list[Tensor], gradient: Tensor, more: Any) -> None:
        """Moves all parameters."""
        raise NotImplementedError
