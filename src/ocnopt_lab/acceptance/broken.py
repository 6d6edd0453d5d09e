"""Optimizers that are wrong on purpose: every check has to tell one of them from AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer


class Idle(AdamW):
    """Never moves anything."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return None if closure is None else closure()


class Forgetful(AdamW):
    """Saves no state."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "state": {}}


class Deaf(AdamW):
    """Does not call closures."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return super().step()


class Noisy(AdamW):
    """Adds noise to every step."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                if p.grad is not None:
                    p.add_(1e-3 * torch.randn_like(p))
        return loss


class Rough(AdamW):
    """Keeps a matrix in the precision of the parameters, and takes its own rate."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        rate = self.param_groups[0]["lr"]
        self.param_groups[0]["lr"] = 1e-2
        loss = super().step(closure)
        self.param_groups[0]["lr"] = rate
        for p, state in self.state.items():
            state["factor"] = p.new_zeros(7, 7, dtype=torch.bfloat16)
        return loss


class Unclipped(AdamW):
    """Steps along the gradients of the last backward pass, and knows nothing of clipping, scalers and sums."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.heard: dict[nn.Parameter, torch.Tensor] = {}
        for p in self.param_groups[0]["params"]:
            p.register_hook(lambda gradient, p=p: self.heard.update({p: gradient.clone()}))

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else closure()
        for p, gradient in self.heard.items():
            p.grad = gradient.clone()
        super().step()
        return loss


class Local(AdamW):
    """Steps along gradients of length one, as long as nobody has cut them: of shards it sees its own."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else closure()
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                mine, gradient = (x.to_local() if isinstance(x, DTensor) else x for x in (p, p.grad))
                mine.sub_(1e-2 * gradient / gradient.norm().clamp(min=1e-12))
        return loss


class Thawed(AdamW):
    """Moves what is frozen."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.mul_(0.999)
        return loss


def made(kind: Callable[..., Optimizer]) -> Callable[[nn.Module], Optimizer]:
    return lambda model: kind(model.parameters(), 1e-2)


TABLE: dict[str, Callable[[nn.Module], Optimizer]] = {
    kind.__name__.lower(): made(kind) for kind in (Idle, Forgetful, Deaf, Noisy, Rough, Unclipped, Local, Thawed)
}
