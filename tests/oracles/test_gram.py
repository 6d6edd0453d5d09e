"""G = (f_θᵀY)ᵀ M⁻¹ (f_θᵀY) and the two primitives of a stage against rows of W formed one by one."""

from __future__ import annotations

import dense
import metrics
import pytest
import torch
from engine import Case, Record, close, run_library
from nets import EXACT, Task, make
from scenes import dense_of
from test_kronecker import KINDS
from torch import Tensor, nn

from ocnopt.core import gram
from ocnopt.core import stage as stage_module
from ocnopt.core.gram import coupled_gram, sample_gram
from ocnopt.core.stage import Stage
from ocnopt.core.terminal import Fisher

NETS = (*EXACT, "tokens")
TERMINALS = {"one column": "true-vs-rest", "three columns": Fisher(3)}


def recorded(net: str, kind: str, terminal: str) -> tuple[Task, Record]:
    task = make(net)
    return task, run_library(Case(net=net, curvature=KINDS[kind], terminal=TERMINALS[terminal]), task)


def rows_by_call(task: Task, layer: nn.Module, U: Tensor) -> Tensor:
    """W (N, r, p): f_θᵀ of what comes back to every call, sample by sample, added over calls; U (r, N, K)."""
    output, calls = metrics.calls_of(task.net, layer, task.x)
    W = torch.zeros(U.shape[1], U.shape[0], dense.flat(dense.parameters(layer)).numel(), dtype=U.dtype)
    for j, column in enumerate(U):
        returned = torch.autograd.grad(output, [h for _, h in calls], column, retain_graph=True)
        for (z, _), Y in zip(calls, returned, strict=True):
            h = layer(z.detach())
            for i in range(len(W)):
                W[i, j] += dense.gradients((Y[i] * h[i]).sum(), [layer])[0]
    return W


@pytest.mark.parametrize("chunk", [None, 1, 40])
@pytest.mark.parametrize("terminal", TERMINALS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", NETS)
def test_grams_are_the_dense_ones(net: str, kind: str, terminal: str, chunk: int | None, monkeypatch) -> None:
    if chunk is not None:
        monkeypatch.setattr(gram, "CHUNK", chunk)
        monkeypatch.setattr(gram, "FEW", 3)
        monkeypatch.setattr(stage_module, "LARGEST", 0)
    task, record = recorded(net, kind, terminal)
    for stage, layer in zip(record.problem.stages, task.layers, strict=True):
        compare(task, stage, layer, record.columns)


def compare(task: Task, stage: Stage, layer: nn.Module, columns: Tensor) -> None:
    W = rows_by_call(task, layer, columns)
    inverse, what = dense_of(stage.metric.solve, layer), type(layer).__name__
    close(sample_gram(stage), torch.stack([w @ inverse @ w.T for w in W]), f"G_i of {what}")
    R = W.flatten(0, 1)
    close(coupled_gram(stage), R @ inverse @ R.T, f"G of {what}")


@pytest.mark.parametrize("terminal", TERMINALS)
@pytest.mark.parametrize("net", NETS)
def test_pull_and_resp_are_products_with_the_rows(net: str, terminal: str) -> None:
    task, record = recorded(net, "identity", terminal)
    draw = torch.Generator().manual_seed(1)
    for stage, layer in zip(record.problem.stages, task.layers, strict=True):
        W = rows_by_call(task, layer, record.columns)
        c = torch.randn(*W.shape[:2], generator=draw, dtype=W.dtype)
        d = tuple(torch.randn(p.shape, generator=draw, dtype=W.dtype) for p in dense.parameters(layer))
        close(dense.flat(stage.pull(c)), torch.einsum("nrp,nr->p", W, c), "pull")
        close(stage.resp(d), W @ dense.flat(d), "resp")
        close(dense.flat(stage.sample_products()).view(-1), dense.flat(split(W, layer)), "sample products")


def split(W: Tensor, layer: nn.Module) -> list[Tensor]:
    """W as the layer's parameters, each (r, N, *parameter)."""
    params = dense.parameters(layer)
    return [part.transpose(0, 1) for part in W.split([p.numel() for p in params], dim=-1)]


@pytest.mark.parametrize("net", EXACT)
def test_both_ways_to_the_rows_agree(net: str) -> None:
    """Through the whole network at once, or call by call: the two dense definitions, without the library."""
    task = make(net)
    loss, output = task.evaluate()
    U = torch.autograd.grad(loss, output, retain_graph=True)[0].unsqueeze(0)
    for layer, W in zip(task.layers, dense.sensitivities(output, task.layers, U), strict=True):
        close(rows_by_call(task, layer, U), W, "W")


def test_small_chunks_really_cut() -> None:
    task, record = recorded("conv", "identity", "one column")
    stage = record.problem.stages[0]
    rows, D = gram.rotated_rows(stage)
    assert len(list(gram.products(rows, D, gram.outputs_within(1, rows)))) == task.layers[0].out_channels


MUTATIONS = {
    "the last samples are lost": ("of_few_samples", lambda real: lambda rows: [*real(rows)][:-1]),
    "the last chunk is lost": ("products", lambda real: lambda *args: iter(list(real(*args))[:-1])),
    "D is not a square root": ("products", lambda real: lambda r, D, *rest: real(r, D.square(), *rest)),
    "columns before samples": ("sample_rows", lambda real: lambda X: real(X.transpose(0, 1))),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_notices_a_mutation(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutations: see the table."""
    monkeypatch.setattr(gram, "CHUNK", 40)
    monkeypatch.setattr(gram, "FEW", 3)
    monkeypatch.setattr(stage_module, "LARGEST", 0)
    task, record = recorded("conv", "adam", "three columns")
    name, new = MUTATIONS[what]
    monkeypatch.setattr(gram, name, new(getattr(gram, name)))
    with pytest.raises(AssertionError):
        compare(task, record.problem.stages[0], task.layers[0], record.columns)
