"""Networks with a Neural ODE inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ocnopt.ode import NeuralODE
from ocnopt_lab.errors import LabError
from ocnopt_lab.problems.networks import Factory, Shape, image_shape


class ConvolutionalField(nn.Module):
    """dx/dt for maps x (B, width, H, W): two 3x3 convolutions, the time as one more channel of each."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width + 1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width + 1, width, 3, padding=1)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        hidden = self.conv1(_with_time(t, torch.relu(x))).relu()
        return self.conv2(_with_time(t, hidden))


def _with_time(t: Tensor, x: Tensor) -> Tensor:
    """(B, C, H, W) → (B, C + 1, H, W)."""
    return torch.cat([x, t.to(x).expand(x.shape[0], 1, *x.shape[2:])], dim=1)


def convolutional_ode(width: int) -> Factory:
    """A 3x3 convolution, two of 4x4 with stride 2, the ODE, global average pool, one dense layer."""

    def build(in_shape: Shape, outputs: int) -> nn.Module:
        channels, _, _ = image_shape(in_shape, 8)
        encoder = nn.Sequential(
            *(nn.Conv2d(channels, width, 3), nn.ReLU()),
            *(nn.Conv2d(width, width, 4, stride=2, padding=1), nn.ReLU()),
            nn.Conv2d(width, width, 4, stride=2, padding=1),
        )
        head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, outputs))
        return nn.Sequential(encoder, NeuralODE(ConvolutionalField(width)), head)

    return build


class DenseField(nn.Module):
    """dh/dt for states h (B, hidden): two dense layers, bounded so that long series cannot blow up."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        return self.outer(self.inner(h).tanh()).tanh()


class RecurrentODE(nn.Module):
    """Series (B, times, channels + 1), the last channel 1 where observed → logits (B, classes).

    The state evolves by an ODE and a GRU cell updates it with `stride` observations at once, as in ODE-RNN: so a long
    series needs few calls of the solver. Where nothing was observed the state stays as it is.
    """

    def __init__(self, ode: NeuralODE, cell: nn.GRUCell, head: nn.Linear, stride: int) -> None:
        super().__init__()
        self.ode: NeuralODE = ode
        self.cell, self.head, self.stride = cell, head, stride
        self.nfe_forward, self._start = 0, 0

    @property
    def nfe_backward(self) -> int:
        """Evaluations of the field in the backward passes since the last forward pass."""
        return self.ode.total.backward - self._start

    def forward(self, x: Tensor) -> Tensor:
        counts = self.ode.total
        before, self._start = counts.forward, counts.backward
        h = x.new_zeros(len(x), self.cell.hidden_size)
        for chunk in _chunks(x, self.stride):
            seen = chunk[..., -1].amax(dim=1, keepdim=True) > 0
            h = torch.where(seen, self.cell(chunk.flatten(1), self.ode(h)), h)
        self.nfe_forward = counts.forward - before
        return self.head(h)


def _chunks(x: Tensor, stride: int) -> tuple[Tensor, ...]:
    """(B, stride, channels) each, the last padded with zeros."""
    missing = -x.shape[1] % stride
    return nn.functional.pad(x, (0, 0, 0, missing)).split(stride, dim=1)


def recurrent_ode(hidden: int, stride: int) -> Factory:
    """A GRU cell of `hidden` units that takes `stride` observations at a time, and an ODE between its updates."""

    def build(in_shape: Shape, outputs: int) -> nn.Module:
        if len(in_shape) != 2:
            raise LabError(f"A recurrent network needs series (times, channels); one sample has shape {in_shape}.")
        cell = nn.GRUCell(stride * in_shape[1], hidden)
        return RecurrentODE(NeuralODE(DenseField(hidden)), cell, nn.Linear(hidden, outputs), stride)

    return build
