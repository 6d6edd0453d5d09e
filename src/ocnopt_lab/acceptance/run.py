"""A network in training with AdamW's loop, whatever the optimizer, and what is compared afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ocnopt_lab.acceptance.problems import PROBLEMS, built

Make = Callable[[nn.Module], Optimizer]
"""Builds an optimizer for a model."""


class Run:
    """A network in training.

    call: what is called in the network's place (compiled, wrapped), where that is another object.
    around: the context of the forward pass.
    """

    def __init__(self, make: Make, problem: str = "mlp", dtype: torch.dtype = torch.float64) -> None:
        self.problem = PROBLEMS[problem]
        self.model = self.call = built(problem, dtype)
        self.optimizer = make(self.model)
        self.around: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.losses: list[float] = []

    def loss(self, step: int) -> Tensor:
        """The loss on the batch of that number."""
        with self.around():
            return self.problem.loss(self.call, self.batch(step))

    def batch(self, step: int) -> Tensor:
        x, dtype = self.problem.draw(step), next(self.model.parameters()).dtype
        return x.to(dtype) if x.is_floating_point() else x

    def step(self, step: int) -> None:
        self.optimizer.zero_grad()
        loss = self.loss(step)
        loss.backward()
        self.optimizer.step()
        self.losses.append(loss.item())

    def train(self, steps: Iterable[int]) -> Run:
        for step in steps:
            self.step(step)
        return self


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def distance(a: nn.Module, b: nn.Module) -> float:
    """Largest difference of any weight; NaN counts as infinite."""
    return apart(list(a.parameters()), list(b.parameters()))


def apart(first: Iterable[Tensor], second: Iterable[Tensor]) -> float:
    """Largest difference of any entry; NaN counts as infinite."""
    pairs = zip(first, second, strict=True)
    worst = torch.stack([(p - q).detach().double().abs().max() for p, q in pairs]).max()
    return float(worst.nan_to_num(nan=float("inf")))


def same(a: Any, b: Any) -> bool:
    """Bit-for-bit equality of nested containers with tensors, and of objects by their attributes."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if type(a) is type(b) and type(a).__eq__ is object.__eq__ and hasattr(a, "__dict__"):
        return same(vars(a), vars(b))
    return type(a) is type(b) and bool(a == b)


def snapshot(run: Run) -> Any:
    """Everything that a step may change, copied."""
    return copy.deepcopy((run.model.state_dict(), run.optimizer.state_dict()))
