"""One problem solved twice: by the library inside a real training step, and by the dense oracle.

All of it in float64 while torch's default stays float32: what falls back to it shows as an error of 1e-8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from unittest import mock

import dense
import metrics
import torch
from nets import Task, make
from torch import Tensor, nn

from ocnopt import OCNOpt, solving
from ocnopt.core import bellman, policy
from ocnopt.core.bellman import Gain, Pace, Problem
from ocnopt.core.policy import Step
from ocnopt.core.terminal import Gradient, Terminal
from ocnopt.core.turned import Turned, plain_gain, plain_step
from ocnopt.curvature import EKFAC, SGD, Adam, Curvature, Kronecker, RMSprop

TOLERANCE = 1e-10


@dataclass(frozen=True)
class Case:
    """What is solved.

    moving: a random previous step enters with ``pace``.  samples: how many the feedback sees.
    sweeps: in how many parts the batch goes through the network before the step.
    """

    net: str = "chain"
    curvature: Curvature = field(default_factory=SGD)
    value: str = "per-sample"
    terminal: str | Terminal = "true-vs-rest"
    loss: str = "cross-entropy"
    lr: float = 0.4
    feedback: float = 1.0
    saturation: float | None = None
    pace: Pace = field(default_factory=Pace)
    moving: bool = False
    weight_decay: float = 0.0
    samples: int | None = None
    sweeps: int = 1

    def previous(self, layers: Sequence[nn.Module]) -> list[list[Tensor]]:
        """The step that momentum holds, a tensor for every parameter."""
        draws = torch.Generator().manual_seed(7)
        like = [dense.parameters(layer) for layer in layers]
        return [[0.3 * torch.randn(p.shape, generator=draws, dtype=p.dtype) for p in params] for params in like]


@dataclass
class Record:
    """What the library found: gains and steps of all stages."""

    problem: Problem
    gains: list[Gain]
    steps: list[Step]

    @cached_property
    def columns(self) -> Tensor:
        """Y at the output of the network, (r, B, K): every net here ends with a linear layer."""
        last = max(self.problem.stages, key=lambda stage: stage.calls[0].order)
        return torch.cat([call.Y for call in last.calls], dim=1)


def optimizer_of(case: Case, task: Task) -> OCNOpt:
    return OCNOpt(
        task.net,
        lr=case.lr,
        curvature=case.curvature,
        terminal=case.terminal,
        value=case.value,
        search="fixed",
        feedback=case.feedback,
        saturation=case.saturation,
        weight_decay=case.weight_decay,
        feedback_samples=case.samples,
    )


def run_library(case: Case, task: Task) -> Record:
    """Gains and steps of a training step, taken down between its backward pass and its move, which is undone."""
    records = []
    before = [p.detach().clone() for p in task.net.parameters()]
    run = bellman.backward_pass

    def watched(problem: Problem) -> list[Gain]:
        problem = prepared(case, task, problem)
        gains = run(problem)
        steps = [plain_step(*pair) for pair in zip(problem.stages, policy.forward_pass(problem, gains), strict=True)]
        records.append(Record(problem, [plain_gain(gain) for gain in gains], steps))
        return gains

    optimizer = optimizer_of(case, task)
    with mock.patch.object(solving, "backward_pass", watched):
        for x, y in zip(task.x.chunk(case.sweeps), task.y.chunk(case.sweeps), strict=True):
            output = task.net(x)
            optimizer.backward(task.loss(output, y) / case.sweeps, output)
        optimizer.step()
    optimizer.remove_hooks()
    with torch.no_grad():
        for p, old in zip(task.net.parameters(), before, strict=True):
            p.copy_(old)
    return records[0]


def prepared(case: Case, task: Task, problem: Problem) -> Problem:
    """The problem with the case's own pace and previous steps."""
    if case.moving:
        for stage, previous in zip(problem.stages, case.previous(task.layers), strict=True):
            (stage.plain if isinstance(stage, Turned) else stage).previous = tuple(previous)
    return replace(problem, pace=case.pace)


def run_oracle(case: Case, task: Task, columns: Tensor) -> dense.Passes:
    """The same from explicit Jacobians. columns: U at the output, (r, B, K); test_terminal.py tests them."""
    loss, output = task.evaluate()
    layers = dense_layers(case, task, loss, output, columns)
    options = {"fresh": case.pace.fresh, "ball": case.pace.ball}
    if case.moving:
        for layer, previous in zip(layers, case.previous(task.layers), strict=True):
            layer.previous = dense.flat(previous)
    if case.saturation is not None:
        options["limit"] = dense.limited(case.saturation, coordinates(case, loss, output, columns))
    C = terminal_core(case, task, output, columns)
    if case.samples is not None:
        C, options["weight"] = C[: case.samples], C.new_full((case.samples,), len(C) / case.samples)
        for layer in layers:
            layer.W = layer.W[: case.samples]
    method = {"per-sample": dense.per_sample, "own-gains": dense.own_gains, "coupled": dense.coupled}[case.value]
    return method(layers, case.feedback * C, **options)


def dense_layers(case: Case, task: Task, loss: Tensor, output: Tensor, columns: Tensor) -> list[dense.Layer]:
    """g with its L2 part, W, M and whether that holds the own block."""
    layers = []
    W = dense.sensitivities(output, task.layers, columns)
    for module, g, rows in zip(task.layers, dense.gradients(loss, task.layers), W, strict=True):
        g = g + case.weight_decay * dense.flat(dense.parameters(module)).detach()
        M = metric(case, task, module, g, columns)
        layers.append(dense.Layer(g, rows, M, holds_own_block(case, module)))
    return layers


def is_rank_one(case: Case) -> bool:
    return case.terminal == "true-vs-rest" or isinstance(case.terminal, Gradient)


def terminal_core(case: Case, task: Task, output: Tensor, columns: Tensor) -> Tensor:
    """C_T (B, r, r) before κ."""
    B, r = len(output), len(columns)
    if isinstance(case.terminal, Gradient):
        return output.new_full((B, 1, 1), case.terminal.beta * B)
    if case.terminal == "true-vs-rest":
        p = output.detach().softmax(1)[torch.arange(B), task.y]
        return (B * p / (1 - p)).view(B, 1, 1)
    return torch.eye(r, dtype=output.dtype).expand(B, r, r)


def coordinates(case: Case, loss: Tensor, output: Tensor, columns: Tensor) -> Tensor | None:
    """Of v in the columns, (B, r), the shortest ones; None where Y = v."""
    if is_rank_one(case):
        return None
    (v,) = torch.autograd.grad(loss, output, retain_graph=True)
    return torch.linalg.lstsq(columns.permute(1, 2, 0), v.unsqueeze(-1), driver="gelsd").solution[..., 0]


def holds_own_block(case: Case, layer: nn.Module) -> bool:
    return isinstance(case.curvature, Kronecker) and isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d)


def has_basis(curvature: Kronecker, n_in: int) -> bool:
    """Whether EKFAC diagonalises a layer of this width; it leaves wider ones to KFAC, and diagonals too."""
    rows = rows_of_blocks(curvature, n_in)
    return isinstance(curvature, EKFAC) and n_in <= curvature.whole and (rows > 1 or n_in == 1)


def rows_of_blocks(curvature: Kronecker, n: int) -> int:
    """As many equal blocks as it takes for none to be too large; too many of them are a diagonal."""
    largest = n if n <= curvature.max_factor else min(curvature.max_factor, curvature.block_size)
    count = math.ceil(n / largest)
    return math.ceil(n / count) if count <= max(curvature.max_blocks, 1) else 1


def metric(case: Case, task: Task, layer: nn.Module, g: Tensor, columns: Tensor) -> Tensor:
    """M (p, p) at the first step, where every running average is its first value."""
    curvature, lr = case.curvature, case.lr
    if holds_own_block(case, layer):
        weight = float(len(task.x)) if is_rank_one(case) else 1.0
        A, B = metrics.factors(task.net, layer, task.x, columns, weight)
        kind = metrics.young_ekfac if has_basis(curvature, A.shape[-1]) else metrics.kfac
        A, B = (metrics.cut(X, rows_of_blocks(curvature, X.shape[-1])) for X in (A, B))
        return kind(layer, A, B, curvature.damping, lr)
    if isinstance(curvature, Kronecker):
        curvature, lr = curvature.companion, lr * curvature.companion_lr
    if isinstance(curvature, SGD):
        return metrics.diagonal(torch.ones_like(g), lr)
    alpha = curvature.alpha if isinstance(curvature, RMSprop) else 0.0
    assert isinstance(curvature, RMSprop | Adam)
    return metrics.diagonal((1 - alpha) ** 0.5 * g.abs() + curvature.eps, lr)


def check(case: Case) -> None:
    """Raise AssertionError, with the name of the intermediate, unless both agree on all of them."""
    task = make(case.net, case.loss)
    loss, output = task.evaluate()
    (v,) = torch.autograd.grad(loss, output)
    record = run_library(case, task)
    if is_rank_one(case):
        close(record.columns[0], v[: case.samples], "Y = v")
    # The feedback may have seen only some of the samples; the metric has seen all of them.
    compare(record, run_oracle(case, task, v.unsqueeze(0) if is_rank_one(case) else record.columns))


def compare(record: Record, expected: dense.Passes) -> None:
    e = torch.zeros_like(expected.e[0])
    for t, (gain, step) in enumerate(zip(record.gains, record.steps, strict=True)):
        a = torch.zeros_like(e) if gain.a is None else gain.a
        for name, value in (("Q", dense.flat(gain.Q)), ("k", dense.flat(gain.k)), ("a", a), ("C", gain.C), ("e", e)):
            close(value, getattr(expected, name)[t], f"{name} of layer {t}")
        close(dense.flat(step.step), expected.step[t], f"δθ of layer {t}")
        e = e + record.problem.pace.whole(step.response, gain.carried)
    close(e, expected.end, "e behind the last layer")


def close(actual: Tensor, expected: Tensor, what: str, tolerance: float = TOLERANCE) -> None:
    """Raise AssertionError unless ‖actual − expected‖ ≤ tolerance·‖expected‖, both in float64."""
    assert actual.shape == expected.shape, f"{what}: {tuple(actual.shape)} is not {tuple(expected.shape)}"
    assert actual.dtype == expected.dtype == torch.float64, f"{what}: {actual.dtype}, {expected.dtype}"
    error, size = float((actual - expected).norm()), float(expected.norm())
    assert error <= tolerance * size, f"{what}: error {error:.2e} at size {size:.2e}"
