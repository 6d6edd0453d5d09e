"""The table of players: one line per module, ``case(id, factory, input)``.

``input`` is the shape of a random tensor, or a function that returns the arguments of the call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_map

from ocnopt.pde import JetLinear


@dataclass(frozen=True)
class Case:
    id: str
    factory: Callable[[], nn.Module]
    input: tuple[int, ...] | Callable[[], tuple[Any, ...]]
    frozen: str = ""
    training: bool = True
    tolerance: float = 1e-10

    def module(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The module with random parameters: a norm at its initial ones and zeros would hide mistakes."""
        torch.manual_seed(0)
        module = self.factory().to(dtype).train(self.training)
        for name, parameter in module.named_parameters():
            nn.init.normal_(parameter).requires_grad_(name not in self.frozen.split())
        for buffer in module.buffers():
            if buffer.is_floating_point():
                buffer.copy_(torch.rand_like(buffer) + 0.5)
        return module

    def args(self, dtype: torch.dtype = torch.float64) -> tuple[Any, ...]:
        torch.manual_seed(1)
        args = self.input() if callable(self.input) else (torch.randn(self.input),)
        return tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, args)


class NoisyScale(nn.Module):
    """Raw parameters around dropout, and a buffer that counts calls."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(3)), nn.Parameter(torch.zeros(3))
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return torch.tanh(self.drop(x * self.scale) + self.shift)


class Mixing(nn.Module):
    """Every output depends on all samples; an integer and a detached output ride along."""

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor, *, gain: float = 2.0) -> dict[str, Tensor]:
        shared = (x * self.power).sin().mean(0)
        return {"index": x.argmax(1), "fixed": shared.detach() + x, "a": x * shared, "b": gain * shared.cos() + x}


class Cubed(torch.autograd.Function):
    """An old-style function: twice differentiable backwards, no forward mode, no torch.func."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, u: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * u


class CubedOnce(Cubed):
    """Differentiable once only, like many a hand-written kernel."""

    backward = staticmethod(once_differentiable(Cubed.backward))


class Applied(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function, self.scale = function, nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.function.apply(x * self.scale)


def words(*shape: int) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.randint(0, 6, shape),)


def sized(*space: int) -> Callable[[], tuple[Tensor, list[int]]]:
    return lambda: (torch.randn(3, 2, 4, 3), list(space))


def pair(batch: int, first: int, second: int) -> Callable[[], tuple[Tensor, Tensor]]:
    return lambda: (torch.randn(batch, first), torch.randn(batch, second))


def triple(batch: int, inputs: int, units: int) -> Callable[[], tuple[Tensor, tuple[Tensor, Tensor]]]:
    return lambda: (torch.randn(batch, inputs), (torch.randn(batch, units), torch.randn(batch, units)))


case = Case
CASES = [
    case("linear", lambda: nn.Linear(3, 4), (5, 3)),
    case("linear-no-bias", lambda: nn.Linear(3, 4, bias=False), (5, 3)),
    case("linear-frozen-weight", lambda: nn.Linear(3, 4), (5, 3), frozen="weight"),
    case("linear-frozen-bias", lambda: nn.Linear(3, 4), (5, 3), frozen="bias"),
    case("linear-sequence", lambda: nn.Linear(3, 4), (5, 6, 3)),
    case("linear-sequence-frozen-weight", lambda: nn.Linear(3, 4), (5, 6, 2, 3), frozen="weight"),
    case("linear-grid", lambda: nn.Linear(3, 4, bias=False), (5, 2, 3, 3)),
    case("linear-one-sample", lambda: nn.Linear(3, 1), (1, 3)),
    case("jet-linear", lambda: JetLinear(3, 4), (5, 6, 3)),
    case("jet-linear-no-bias", lambda: JetLinear(3, 4, bias=False), (5, 6, 3)),
    case("jet-linear-frozen-weight", lambda: JetLinear(3, 4), (5, 4, 3), frozen="weight"),
    case("jet-linear-one-component", lambda: JetLinear(3, 2), (4, 1, 3)),
    case("conv1d", lambda: nn.Conv1d(3, 4, 3), (4, 3, 8)),
    case("conv1d-stride-dilation-groups", lambda: nn.Conv1d(4, 6, 3, 2, 2, dilation=2, groups=2), (3, 4, 9)),
    case("conv1d-same-even-kernel", lambda: nn.Conv1d(2, 3, 4, padding="same"), (3, 2, 7)),
    case("conv2d", lambda: nn.Conv2d(2, 3, 3, padding=1), (4, 2, 5, 6)),
    case("conv2d-no-bias", lambda: nn.Conv2d(2, 3, (3, 2), bias=False), (4, 2, 5, 6)),
    case("conv2d-frozen-weight", lambda: nn.Conv2d(2, 4, 3, groups=2), (4, 2, 5, 6), frozen="weight"),
    case("conv2d-frozen-bias", lambda: nn.Conv2d(2, 3, 3), (4, 2, 5, 6), frozen="bias"),
    case("conv2d-one-by-one", lambda: nn.Conv2d(2, 3, 1), (4, 2, 3, 3)),
    case("conv2d-depthwise", lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3), (4, 3, 5, 4)),
    case("conv2d-all", lambda: nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 2), (1, 2), groups=2), (3, 4, 6, 7)),
    case("conv2d-same", lambda: nn.Conv2d(2, 3, (2, 3), padding="same", dilation=(3, 1)), (3, 2, 6, 7)),
    case("conv2d-valid", lambda: nn.Conv2d(2, 3, 3, padding="valid"), (3, 2, 5, 5)),
    case("conv2d-reflect", lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="reflect"), (3, 2, 5, 6)),
    case("conv2d-replicate", lambda: nn.Conv2d(2, 3, 3, 2, padding=1, padding_mode="replicate"), (3, 2, 5, 6)),
    case("conv2d-circular", lambda: nn.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="circular"), (3, 2, 5, 6)),
    case("conv2d-reflect-same", lambda: nn.Conv2d(2, 3, 2, padding="same", padding_mode="reflect"), (3, 2, 5, 6)),
    case("conv3d", lambda: nn.Conv3d(2, 4, (2, 3, 2), (1, 2, 1), (0, 1, 1), groups=2), (3, 2, 4, 5, 3)),
    case("conv3d-circular", lambda: nn.Conv3d(2, 2, 3, padding=1, padding_mode="circular"), (2, 2, 3, 4, 3)),
    case("transposed1d", lambda: nn.ConvTranspose1d(3, 2, 3), (4, 3, 5)),
    case("transposed1d-surplus", lambda: nn.ConvTranspose1d(2, 3, 3, 2, 1, 2, dilation=3), (4, 2, 5)),
    case("transposed2d", lambda: nn.ConvTranspose2d(2, 3, 3, 2, 1, output_padding=1), (3, 2, 4, 3)),
    case("transposed2d-groups", lambda: nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), 1, (0, 2), 2), (3, 4, 4, 3)),
    case("transposed2d-output-size", lambda: nn.ConvTranspose2d(2, 3, 3, 2), sized(10, 7)),
    case("transposed2d-frozen-weight", lambda: nn.ConvTranspose2d(2, 3, 3), (3, 2, 4, 3), frozen="weight"),
    case("transposed2d-no-bias", lambda: nn.ConvTranspose2d(2, 3, 3, bias=False), (3, 2, 4, 3)),
    case("transposed3d", lambda: nn.ConvTranspose3d(2, 4, 2, 2, groups=2, dilation=2), (2, 2, 2, 1, 2)),
    case("embedding", lambda: nn.Embedding(6, 3), words(4)),
    case("embedding-sequence", lambda: nn.Embedding(6, 3), words(4, 7)),
    case("embedding-padding", lambda: nn.Embedding(6, 3, padding_idx=2), words(4, 5, 2)),
    case("embedding-padding-last", lambda: nn.Embedding(6, 3, padding_idx=-1), words(4, 9)),
    case("layernorm", lambda: nn.LayerNorm(5), (4, 5)),
    case("layernorm-sequence", lambda: nn.LayerNorm(5), (4, 3, 5)),
    case("layernorm-two-dims", lambda: nn.LayerNorm((3, 5)), (4, 2, 3, 5)),
    case("layernorm-no-bias", lambda: nn.LayerNorm(5, bias=False), (4, 3, 5)),
    case("layernorm-frozen-weight", lambda: nn.LayerNorm((3, 5)), (4, 3, 5), frozen="weight"),
    case("rmsnorm", lambda: nn.RMSNorm(5), (4, 3, 5)),
    case("rmsnorm-two-dims", lambda: nn.RMSNorm((3, 5), eps=1e-3), (4, 3, 5)),
    case("groupnorm", lambda: nn.GroupNorm(2, 4), (3, 4, 5, 2)),
    case("groupnorm-frozen-bias", lambda: nn.GroupNorm(2, 4), (3, 4), frozen="bias"),
    case("batchnorm1d", lambda: nn.BatchNorm1d(3), (5, 3)),
    case("batchnorm1d-sequence", lambda: nn.BatchNorm1d(3), (5, 3, 4)),
    case("batchnorm2d", lambda: nn.BatchNorm2d(3), (4, 3, 2, 5)),
    case("batchnorm2d-eval", lambda: nn.BatchNorm2d(3), (4, 3, 2, 5), training=False),
    case("batchnorm-untracked", lambda: nn.BatchNorm1d(3, track_running_stats=False), (4, 3, 5), training=False),
    case("batchnorm2d-frozen-weight", lambda: nn.BatchNorm2d(3), (4, 3, 2, 5), frozen="weight"),
    case("batchnorm3d", lambda: nn.BatchNorm3d(3), (4, 3, 2, 3, 2)),
    case("instancenorm", lambda: nn.InstanceNorm2d(3, affine=True, track_running_stats=True), (4, 3, 3, 2)),
    case("prelu", lambda: nn.PReLU(3), (4, 3, 2)),
    case("bilinear", lambda: nn.Bilinear(3, 3, 2), pair(4, 3, 3)),
    case("embedding-bag", lambda: nn.EmbeddingBag(6, 3, mode="sum"), words(4, 3)),
    case("gru", lambda: nn.GRU(3, 4, batch_first=True), (3, 5, 3)),
    case("gru-deep", lambda: nn.GRU(3, 2, num_layers=2, dropout=0.5, bidirectional=True, batch_first=True), (3, 4, 3)),
    case("gru-frozen", lambda: nn.GRU(3, 4, batch_first=True), (3, 5, 3), frozen="weight_hh_l0"),
    case("lstm", lambda: nn.LSTM(3, 4, batch_first=True), (3, 5, 3)),
    case("lstm-projected", lambda: nn.LSTM(3, 4, proj_size=2, batch_first=True), (5, 2, 3)),
    case("rnn-cell", lambda: nn.RNNCell(3, 4), pair(5, 3, 4)),
    case("rnn-cell-relu", lambda: nn.RNNCell(5, 2, nonlinearity="relu"), pair(4, 5, 2)),
    case("rnn-cell-no-bias", lambda: nn.RNNCell(3, 4, bias=False), pair(5, 3, 4)),
    case("rnn-cell-no-state", lambda: nn.RNNCell(3, 4), (5, 3)),
    case("rnn-cell-frozen", lambda: nn.RNNCell(3, 4), pair(5, 3, 4), frozen="weight_ih"),
    case("gru-cell", lambda: nn.GRUCell(3, 4), pair(5, 3, 4)),
    case("gru-cell-wide-input", lambda: nn.GRUCell(6, 2), pair(4, 6, 2)),
    case("gru-cell-no-bias", lambda: nn.GRUCell(3, 4, bias=False), pair(5, 3, 4)),
    case("gru-cell-no-state", lambda: nn.GRUCell(3, 4), (3, 3)),
    case("gru-cell-frozen-weight", lambda: nn.GRUCell(3, 4), pair(5, 3, 4), frozen="weight_hh"),
    case("gru-cell-frozen-bias", lambda: nn.GRUCell(3, 4), pair(5, 3, 4), frozen="bias_ih"),
    case("gru-cell-one-map", lambda: nn.GRUCell(3, 4), pair(5, 3, 4), frozen="weight_ih bias_ih"),
    case("gru-cell-biases", lambda: nn.GRUCell(3, 4), pair(5, 3, 4), frozen="weight_ih weight_hh"),
    case("lstm-cell", lambda: nn.LSTMCell(3, 4), triple(5, 3, 4)),
    case("lstm-cell-no-bias", lambda: nn.LSTMCell(3, 4, bias=False), triple(5, 3, 4)),
    case("lstm-cell-no-state", lambda: nn.LSTMCell(3, 4), (5, 3)),
    case("lstm-cell-frozen", lambda: nn.LSTMCell(3, 4), triple(5, 3, 4), frozen="bias_hh weight_hh"),
    case("noisy-scale", NoisyScale, (4, 3)),
    case("mixing", Mixing, (4, 3)),
    case("own-function", lambda: Applied(Cubed), (4, 3)),
    case("own-function-once", lambda: Applied(CubedOnce), (4, 3), tolerance=1e-7),
]
