"""A layer's dense Gauss-Newton block beside the stage that the library sees, and metrics as dense matrices."""

from __future__ import annotations

from dataclasses import dataclass

import dense
import metrics
import torch
from engine import Case, run_library
from nets import Task, make
from torch import Tensor, nn

from ocnopt.core.stage import Stage


@dataclass
class Scene:
    """Stages of a network with exact Gauss-Newton columns, and the dense block Σ W Wᵀ of each layer."""

    task: Task
    stages: list[Stage]
    blocks: list[Tensor]
    columns: Tensor

    def matrices(self) -> list[tuple[Stage, nn.Module, Tensor]]:
        """(stage, layer, block) of the layers with a Kronecker form."""
        triples = zip(self.stages, self.task.layers, self.blocks, strict=True)
        return [triple for triple in triples if triple[0].player.is_matrix]


def scene(net: str, loss: str = "cross-entropy") -> Scene:
    task = make(net, loss)
    record = run_library(Case(net=net, loss=loss, terminal="gauss-newton"), task)
    W = [rows.flatten(0, 1) for rows in dense.sensitivities(task.evaluate()[1], task.layers, record.columns)]
    return Scene(task, list(record.problem.stages), [rows.T @ rows for rows in W], record.columns)


def basis_of(layer: nn.Module, state: dict) -> Tensor:
    """U_B ⊗ U_A as columns over the flattened parameters."""
    U = [torch.kron(b, a) for a, b in zip(state["U_A"], state["U_B"], strict=True)]
    index = metrics.places(layer).flatten(1)
    full = torch.zeros(index.numel(), index.numel(), dtype=torch.float64)
    for g, at in enumerate(index):
        full[at[:, None], g * index.shape[1] + torch.arange(index.shape[1])] = U[g]
    return full


def dense_of(solve, module: nn.Module) -> Tensor:
    """M⁻¹ (p, p), a column for every parameter entry."""
    shapes = [p.shape for p in dense.parameters(module)]
    sizes = [shape.numel() for shape in shapes]
    columns = []
    for unit in torch.eye(sum(sizes), dtype=torch.float64):
        parts = tuple(x.view(shape) for x, shape in zip(unit.split(sizes), shapes, strict=True))
        columns.append(dense.flat(solve(parts)))
    return torch.stack(columns, 1)
