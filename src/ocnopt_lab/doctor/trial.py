"""A few steps on random input: who takes part in fact, and where the time goes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from ocnopt import OCNOpt
from ocnopt.reporting import Row
from ocnopt_lab.doctor.targets import last_line
from ocnopt_lab.errors import LabError

STEPS = 4  # of which the last is observed; decompositions fall into the first and the third


@dataclass(frozen=True)
class Trial:
    """loss: which one was used.  rows: of the last step's coverage.  passes: seconds of its forward and backward pass.

    diagnostics: of the last step.
    """

    loss: str
    rows: list[Row]
    passes: float
    diagnostics: dict[str, float]

    @property
    def shares(self) -> dict[str, float]:
        """Share of each phase in forward pass, backward pass and step together."""
        step = self.diagnostics["step seconds"]
        whole = step + self.passes
        phases = {n.removeprefix("time in "): x for n, x in self.diagnostics.items() if n.startswith("time in ")}
        named = {name if name != "the rest" else "rest of the step": x * step / whole for name, x in phases.items()}
        return {"forward and backward": self.passes / whole, **named}


def shape_of(text: str) -> tuple[int, ...]:
    """(32, 784) from 32,784. Raises LabError for anything else."""
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise LabError(f"--input-shape {text} is no shape; write the batch and the rest, as in 32,784.")
    return tuple(int(part) for part in parts)


def drawn(model: nn.Module, shape: tuple[int, ...], dtype: str | None) -> Tensor:
    """Standard normal numbers, in the dtype of the parameters if none is given; of integers, indices of embeddings."""
    if dtype is not None and not getattr(torch, dtype).is_floating_point:
        sizes = [module.num_embeddings for module in model.modules() if isinstance(module, nn.Embedding)]
        return torch.randint(min(sizes, default=2), shape, dtype=getattr(torch, dtype))
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.randn(shape).to(own if dtype is None else getattr(torch, dtype))


def attempt(model: nn.Module, shape: tuple[int, ...], dtype: str | None, curvature: str) -> Trial:
    """Steps of OCNOpt on the model, which is not the same afterwards. Raises LabError where it cannot run."""
    model.train()
    torch.manual_seed(0)
    x = drawn(model, shape, dtype)
    optimizer = OCNOpt(model, curvature=curvature)
    try:
        for _ in range(STEPS):
            started = time.perf_counter()
            name = pass_of(optimizer, x)
            passes = time.perf_counter() - started
            optimizer.observe()
            optimizer.step()
    except Exception as error:
        raise LabError(
            f"A step on random input of shape {tuple(shape)} and dtype {x.dtype} failed with {last_line(error)}; give "
            "--input-shape and --input-dtype as the model wants them."
        ) from error
    finally:
        optimizer.remove_hooks()
    if "observed step" not in optimizer.diagnostics():
        raise LabError(f"No step on random input of shape {tuple(shape)} had a finite loss and gradients.")
    return Trial(name, optimizer.coverage(), passes, optimizer.diagnostics())


def pass_of(optimizer: OCNOpt, x: Tensor) -> str:
    """Forward and backward pass; the name of the loss."""
    optimizer.zero_grad()
    output = tensor_of(optimizer.model(x))
    name, loss = loss_of(output)
    optimizer.backward(loss, output)
    return name


def tensor_of(output: object) -> Tensor:
    """The first tensor of what a model returns that a loss can be made of."""
    found = (y for y in tree_leaves(output) if isinstance(y, Tensor) and y.is_floating_point() and y.requires_grad)
    first = next(found, None)
    if first is None:
        raise TypeError(f"the model returned {type(output).__name__}, without a tensor that depends on its parameters")
    return first


def loss_of(output: Tensor) -> tuple[str, Tensor]:
    """A cross-entropy where rows of two or more numbers come out, else a squared error."""
    if output.dim() == 2 and output.shape[1] > 1:
        return "cross-entropy", F.cross_entropy(output, torch.randint(output.shape[1], output.shape[:1]))
    return "squared error", F.mse_loss(output, torch.randn_like(output))
