"""Tables of many rows: memory by the rows that are read, the same policy as from dense products, sparse gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from live_memory import Live
from optimizer_cases import METHODS, build
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.core import gram

ROWS, WIDTH, SAMPLES, WORDS = 50_000, 64, 64, 8


class Bag(nn.Module):
    """The mean of embedded words, and a read-out."""

    def __init__(self, rows: int = ROWS, width: int = WIDTH, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.read = nn.Embedding(rows, width, **options), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.read(self.table(x).mean(1).tanh())


def words(rows: int = ROWS) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(rows, (SAMPLES, WORDS), generator=draw), torch.randint(4, (SAMPLES,), generator=draw)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, rows: int = ROWS) -> float:
    x, y = words(rows)
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def watched(model: nn.Module, optimizer: torch.optim.Optimizer) -> Live:
    """The memory of a step whose state is there."""
    for _ in range(2):
        step(model, optimizer)
    with Live() as memory:
        step(model, optimizer)
    return memory


@pytest.mark.parametrize("curvature, search", METHODS)
def test_memory_beyond_adamw_is_a_few_tables_and_the_rows_that_are_read(curvature: str, search: str) -> None:
    """Failing, a step holds a whole table for every sample: 819 MB here for one tensor."""
    model = Bag()
    plain = watched(model, torch.optim.AdamW(model.parameters()))
    ours = watched(model, build(model, curvature, search))
    table, read = 4 * ROWS * WIDTH, 4 * SAMPLES * WORDS * WIDTH
    assert ours.largest == plain.largest == table
    assert ours.most <= plain.most + 3 * table + 100 * read


@pytest.mark.parametrize("value", ["per-sample", "coupled"])
@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}])
@pytest.mark.parametrize("curvature", ["sgd", "rmsprop", "adam", "ekfac"])
def test_steps_are_those_of_dense_products(curvature: str, options: dict, value: str, monkeypatch: Any) -> None:
    def trained() -> list[Tensor]:
        model = Bag(9, 3, **options).double()
        optimizer = build(model, curvature, "fixed", value=value, saturation=None)
        for _ in range(4):
            step(model, optimizer, rows=9)
        return [p.detach() for p in model.parameters()]

    ours = trained()
    monkeypatch.setattr(gram, "is_lookup", lambda stage: False)
    for found, expected in zip(ours, trained(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_sparse_gradients_are_refused_as_by_adamw() -> None:
    """torch's AdamW says so, too; a table with sparse gradients is for SparseAdam or SGD, beside the rest."""
    model = Bag(sparse=True)
    with pytest.raises(RuntimeError, match="sparse"):
        step(model, torch.optim.AdamW(model.parameters()))
    model = Bag(sparse=True)
    with pytest.raises(RuntimeError, match=r"gradient of table.weight is sparse; OCNOpt needs dense ones"):
        step(model, OCNOpt(model))


def test_a_sparse_table_trains_beside_by_its_own_optimizer() -> None:
    model = Bag(200, 8, sparse=True)
    rest = OCNOpt(model, params=model.read.parameters())
    table = torch.optim.SparseAdam(model.table.parameters(), lr=0.05)
    losses = []
    for _ in range(15):
        table.zero_grad()
        losses.append(step(model, rest, rows=200))
        table.step()
    assert losses[-1] < 0.3 * losses[0]
    assert model.table.weight.grad.is_sparse
