"""Tables, small networks and one training loop for the optimizer's own tests. A new curvature is one line here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ocnopt import OCNOpt

CURVATURES: dict[str, float] = {"sgd": 0.05, "rmsprop": 0.003, "adam": 0.003, "kfac": 0.02, "ekfac": 0.02}
"""Name and a step that trains the networks below with search="fixed"."""

SEARCHES = ("fixed", "model")
METHODS = [(curvature, search) for curvature in CURVATURES for search in SEARCHES]


def build(model: nn.Module, name: str, search: str = "fixed", **options: Any) -> OCNOpt:
    """The optimizer at a sound rate for the curvature."""
    lr = CURVATURES[name] if search == "fixed" else None
    return OCNOpt(model, **{"lr": lr, "curvature": name, "search": search, **options})


def mlp(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).to(
        dtype
    )


def batch(step: int, size: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Inputs (size, 4) and labels of three classes, the same for the same step."""
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(size, 4, generator=generator, dtype=torch.float64)
    return x.to(dtype), (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> float:
    """AdamW's loop."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x).float() if x.dtype is torch.bfloat16 else model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range | int) -> list[float]:
    """Steps on the batches of those numbers; the losses."""
    numbers = range(steps) if isinstance(steps, int) else steps
    dtype = next(model.parameters()).dtype
    return [one_step(model, optimizer, *batch(step, dtype=dtype)) for step in numbers]


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: Any, b: Any) -> bool:
    """Bit-for-bit equality of nested containers with tensors, dtypes and key order of no matter."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def snapshot(model: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    """Everything that a step may change, copied."""
    return copy.deepcopy((model.state_dict(), optimizer.state_dict()))


def hooks_of(model: nn.Module) -> int:
    """How many hooks of any kind the modules hold."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, name)) for module in model.modules() for name in names)


def twins(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """Two equal networks that share nothing."""
    model = make()
    return model, copy.deepcopy(model)


class Residual(nn.Module):
    """Linear blocks with a skip; checkpointed in the way asked for."""

    def __init__(self, checkpoint: bool | None = None, reentrant: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 3)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6)) for _ in range(2))
        self.checkpoint, self.reentrant = checkpoint, reentrant
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        for block in self.blocks:
            h = h + self.run(block, h)
        return self.leave(h.tanh())

    def run(self, block: nn.Module, h: Tensor) -> Tensor:
        if not self.checkpoint:
            return block(h)
        return torch.utils.checkpoint.checkpoint(block, h, use_reentrant=self.reentrant)


class TinyTransformer(nn.Module):
    """Token and position embeddings, attention, norms, a raw parameter at the root, a tied read-out."""

    def __init__(self, words: int = 7, width: int = 8, length: int = 5, tied: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale = nn.Parameter(torch.ones(width))
        self.tokens, self.positions = nn.Embedding(words, width), nn.Embedding(length, width)
        self.norm, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(width, 12), nn.GELU(), nn.Linear(12, width))
        self.read = nn.Linear(width, words)
        if tied:
            self.read.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        z = self.norm(h)
        h = h + self.attention(z, z, z, need_weights=False)[0]
        return self.read(self.last(h + self.feed(h)) * self.scale)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.read = nn.GRU(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.gru(x)[0][:, -1])


def image_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 3),
    )  # fmt: skip


def signal_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding="same"), nn.ReLU(), nn.Conv1d(4, 4, 3), nn.Flatten(), nn.Linear(24, 3)
    )


def tokens_loss(model: nn.Module, x: Tensor) -> Tensor:
    """Predict the token itself, shifted."""
    return F.cross_entropy(model(x).flatten(0, 1), x.roll(1, 1).flatten())


def labels(x: Tensor) -> Tensor:
    return (x.flatten(1).sum(1) > 0).long() + (x.flatten(1)[:, 0] > 0).long()


def class_loss(model: nn.Module, x: Tensor) -> Tensor:
    return F.cross_entropy(model(x), labels(x))


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def sentences(size: int = 6, length: int = 5) -> Tensor:
    return torch.randint(0, 7, (size, length), generator=torch.Generator().manual_seed(3))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], Callable[[nn.Module, Tensor], Tensor]]] = {
    "transformer": (TinyTransformer, sentences, tokens_loss),
    "gru": (Recurrent, lambda: drawn(6, 5, 4), class_loss),
    "cnn": (image_net, lambda: drawn(8, 1, 8, 8), class_loss),
    "conv1d": (signal_net, lambda: drawn(8, 2, 8), class_loss),
    "mlp": (lambda: mlp(torch.float32), lambda: drawn(8, 4), class_loss),
}
"""Network, input, loss: the zoo of DESIGN section 6."""
