"""Optimizers and networks of the acceptance bar. A new optimizer is one line of ``OPTIMIZERS``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from ocnopt import OCNOpt

Make = Callable[[nn.Module], Optimizer]


def ours(curvature: str, **options: Any) -> Make:
    return lambda model: OCNOpt(model, curvature=curvature, **options)


OPTIMIZERS: dict[str, Make] = {
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), 1e-2),
    "sgd": ours("sgd"),
    "rmsprop": ours("rmsprop"),
    "adam": ours("adam"),
    "kfac": ours("kfac"),
    "ekfac": ours("ekfac"),
    "kfac-fixed": ours("kfac", search="fixed", lr=0.02),
    "adam-coupled": ours("adam", value="coupled"),
    "ekfac-nonlinear": ours("ekfac", rollout="nonlinear"),
}
"""The first is the control: whatever is asked of ours, it must pass."""

every_optimizer = pytest.mark.parametrize("name", OPTIMIZERS)


class Problem(NamedTuple):
    """A network, its input of a given step, and the loss."""

    make: Callable[[], nn.Module]
    draw: Callable[[int], Tensor]
    loss: Callable[[nn.Module, Tensor], Tensor]


def classes(x: Tensor) -> Tensor:
    """Labels 0, 1, 2 of inputs (B, ...)."""
    flat = x.flatten(1)
    return (flat.sum(1) > 0).long() + (flat[:, 0] > 0).long()


def class_loss(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x), classes(x.float()))


def next_token_loss(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x).flatten(0, 1), x.roll(1, 1).flatten())


def normal(*shape: int) -> Callable[[int], Tensor]:
    return lambda step: torch.randn(*shape, generator=torch.Generator().manual_seed(step))


def sentences(step: int) -> Tensor:
    return torch.randint(0, 7, (6, 5), generator=torch.Generator().manual_seed(step))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


def image_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


def signal_net() -> nn.Module:
    return nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.Flatten(), nn.Linear(24, 3))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.read = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.attention(x, x, x)[0].mean(1))


class Language(nn.Module):
    """Embedding, LayerNorm, a feed-forward block, and a read-out that is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.norm = nn.Embedding(7, 8), nn.LayerNorm(8)
        self.feed = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8))
        self.read = nn.Linear(8, 7, bias=False)
        self.read.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x)
        return self.read(h + self.feed(self.norm(h)))


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell, self.read = kind(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.cell(x)[0][:, -1])


PROBLEMS: dict[str, Problem] = {
    "mlp": Problem(mlp, normal(12, 4), class_loss),
    "batchnorm-cnn": Problem(image_net, normal(8, 1, 8, 8), class_loss),
    "conv1d": Problem(signal_net, normal(8, 2, 8), class_loss),
    "attention": Problem(Attention, normal(8, 5, 4), class_loss),
    "tied-language": Problem(Language, sentences, next_token_loss),
    "gru": Problem(lambda: Recurrent(nn.GRU), normal(8, 3, 4), class_loss),
    "lstm": Problem(lambda: Recurrent(nn.LSTM), normal(8, 3, 4), class_loss),
}


def built(problem: str = "mlp", dtype: torch.dtype = torch.float32) -> nn.Module:
    """The network of a problem, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return PROBLEMS[problem].make().to(dtype)


class Run:
    """A network in training: AdamW's loop, whatever the optimizer.

    call: what is called in the network's place (compiled, wrapped), where that is another object.
    """

    def __init__(self, name: str, problem: str = "mlp", dtype: torch.dtype = torch.float64) -> None:
        self.problem = PROBLEMS[problem]
        self.model = self.call = built(problem, dtype)
        self.optimizer = OPTIMIZERS[name](self.model)
        self.losses: list[float] = []

    def loss(self, step: int) -> Tensor:
        """The loss on the batch of that number."""
        x, dtype = self.problem.draw(step), next(self.model.parameters()).dtype
        return self.problem.loss(self.call, x.to(dtype) if x.is_floating_point() else x)

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


def given_labels(run: Run) -> Run:
    """Without labels drawn from the model, which depend on how a batch is cut and cannot pass reentrant checkpoints."""
    curvature = getattr(run.optimizer, "curvature", None)
    if hasattr(curvature, "fisher"):
        run.optimizer.curvature = replace(curvature, fisher="given")
        run.optimizer.plan()
    return run


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def distance(a: nn.Module, b: nn.Module) -> float:
    """Largest difference of any weight; NaN counts as infinite."""
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    worst = torch.stack([(p - q).detach().double().abs().max() for p, q in pairs]).max()
    return float(worst.nan_to_num(nan=float("inf")))


def same(a: Any, b: Any) -> bool:
    """Bit-for-bit equality of nested containers with tensors."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def snapshot(run: Run) -> Any:
    """Everything that a step may change, copied."""
    return copy.deepcopy((run.model.state_dict(), run.optimizer.state_dict()))
