"""Extra backward passes through the model's graph: columns of the terminal factor, and gradients at drawn labels."""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from .core.backward import Pass
from .core.capture import Capture, Mode
from .core.recognition import is_of_labels
from .core.terminal import Factor
from .core.trajectory import Outputs
from .linalg.symmetric import Tally
from .seats import Seat


def smallest(seats: Sequence[Seat], captured: Container[nn.Module]) -> list[Tensor]:
    """One small parameter of every captured module: asking for them alone sends a cotangent past all players."""
    held = ((seat, [p for p in seat.tensors(seat.names) if p.requires_grad]) for seat in seats)
    return [min(params, key=Tensor.numel) for seat, params in held if params and seat.module in captured]


def send_columns(capture: Capture, factor: Factor, output: Tensor, targets: Sequence[Tensor]) -> None:
    """Pull the columns of the terminal factor back through the graph. ValueError where the graph does not allow it."""
    sweep = capture.sweep_of(output)
    for j, column in enumerate(factor.columns):
        Pass(capture, Mode.COLUMN, j, targets).send([output], [column])
    sweep.core, sweep.coordinates, sweep.rank = factor.core, factor.coordinates, len(factor.columns)


def send_draw(capture: Capture, u: Tensor, output: GradientEdge, targets: Sequence[Tensor], tally: Tally) -> None:
    """Send a cotangent at drawn labels down the graph; where that is not allowed the loss's own serves, counted."""
    refused = partial(count_refusal, tally)
    Pass(capture, Mode.DRAW, 0, targets, refused).send([output], [u])


def count_refusal(tally: Tally) -> None:
    tally["draws refused by a checkpoint"] += 1


def require_attached(loss: Tensor, output: Tensor) -> None:
    """Raise ValueError unless the loss is one number, and both have a graph."""
    if loss.numel() != 1:
        raise ValueError(f"The loss has shape {tuple(loss.shape)}; backward needs one number, like loss.mean().")
    if not output.requires_grad:
        raise ValueError("The output has no graph: pass the tensor the loss was computed from, not a detached copy.")
    if not loss.requires_grad:
        raise ValueError("The loss has no graph: compute it from the output with gradients enabled, undetached.")


def keep_outputs(capture: Capture, factor: Factor, loss: Tensor, output: Tensor) -> None:
    """Keep the output and the columns there, which are v = ∂L/∂output alone where the factor has none."""
    with capture.during(Mode.OFF):
        columns = factor.columns or torch.autograd.grad(loss, output, retain_graph=True)
    Y = torch.stack([column.detach() for column in columns])
    capture.sweep_of(output).outputs = Outputs(output.detach().clone(), Y)


def try_out(capture: Capture, output: Tensor) -> None:
    """In a trial: only the loss is wanted, and the output where someone asks for it. Gradients are zero."""
    if capture.overheard is not None:
        capture.overheard.append(output.detach().clone())
    for p in capture.model.parameters():
        if p.requires_grad and p.grad is None:
            p.grad = torch.zeros_like(p)


def require_path(capture: Capture, loss: Tensor, output: Tensor) -> None:
    """Raise ValueError unless the loss was computed from the output."""
    if is_of_labels(loss, output):
        return
    with capture.during(Mode.OFF):
        (v,) = torch.autograd.grad(loss, output, retain_graph=True, allow_unused=True)
    if v is None:
        raise ValueError("The loss was not computed from this output: pass the tensor that the criterion received.")
