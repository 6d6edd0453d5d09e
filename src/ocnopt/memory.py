"""What the optimizer keeps for every layer, in bytes: known from shapes alone, and held within a budget.

Counted is what stays between steps. A step takes more for a while: samples of inputs and cotangents (told per sample
once a step has been taken), and products with them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from .curvature import Curvature, Kronecker
from .curvature.kronecker import DECOMPOSED, SIDES
from .gathering import Turn
from .layout import lay_out
from .linalg.blocks import width_of
from .players import Refusal
from .reporting import aligned
from .seats import Seat
from .updates import Method

STATISTICS = (*SIDES, "S")


@dataclass(frozen=True)
class LayerMemory:
    """One layer, in bytes.

    shapes: of its parameters that train.  factors: how A and B are kept, "" for a diagonal metric.
    What is told is of a layer that takes part in the feedback; one whose calls cannot keeps no more.

    statistics: A, B and second moments in their basis.  decompositions: inverses, or bases with eigenvalues.
    state: moments and momentum, as AdamW keeps some.  activations: inputs and cotangents that the last step has held
    for each of the samples it looked at; None before one has.
    """

    layer: str
    shapes: str
    factors: str
    statistics: int
    decompositions: int
    state: int
    activations: int | None = None

    @property
    def total(self) -> int:
        """Of what stays between steps."""
        return self.statistics + self.decompositions + self.state


@dataclass(frozen=True)
class MemoryPlan:
    """``OCNOpt.memory_plan()``: a row for every layer; ``str`` of it is a table.

    adamw: bytes that AdamW would keep.  budget: what ``memory_budget`` allows, None without.
    """

    rows: tuple[LayerMemory, ...]
    adamw: int
    budget: int | None = None

    @property
    def total(self) -> int:
        return sum(row.total for row in self.rows)

    def __str__(self) -> str:
        names = [field.name for field in fields(LayerMemory)]
        sums = [sum(getattr(row, name) or 0 for row in self.rows) for name in names[3:]]
        lines = [[*names, "total"], *([*map(cell, astuple(row)), cell(row.total)] for row in self.rows)]
        told = f"AdamW would keep {cell(self.adamw)}."
        allowed = "" if self.budget is None else f" The budget is {cell(self.budget)}."
        return aligned([*lines, ["all", "", "", *map(cell, [*sums, self.total])]]) + f"\n{told}{allowed}"


def cell(entry: str | int | None) -> str:
    """Numbers of bytes with a unit."""
    if not isinstance(entry, int):
        return entry or ""
    power = min(3, max(0, int(math.log(entry, 1024)))) if entry else 0
    return f"{entry / 1024**power:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"


def plan_of(
    seats: Sequence[Seat], method: Method, group: dict[str, Any], held: dict[str, int]
) -> tuple[LayerMemory, ...]:
    """A row for every seat that trains. group: options of a parameter group.  held: bytes by path, per sample."""
    return tuple(row_of(turn, held.get(turn.seat.path)) for turn in blank_turns(seats, method, group))


def row_of(turn: Turn, held: int | None) -> LayerMemory:
    kept = [(name, x) for state in turn.states for name, x in state.items() if isinstance(x, Tensor)]
    shapes = (f"{name} {'x'.join(map(str, p.shape)) or '1'}" for name, p in zip(turn.names, turn.params, strict=True))
    factors = (f"{side}: {told(turn.state[side])}" for side in SIDES if side in turn.state)
    statistics = sum(bytes_of(x) for name, x in kept if name in STATISTICS)
    found = sum(bytes_of(x) for name, x in kept if name in DECOMPOSED and name not in STATISTICS)
    rest = sum(bytes_of(x) for _, x in kept) - statistics - found
    return LayerMemory(turn.seat.name, ", ".join(shapes), ", ".join(factors), statistics, found, rest, held)


def told(X: Tensor) -> str:
    """How a factor is kept."""
    n, b = X.shape[1], width_of(X)
    cut = f"{n} whole" if b == n else f"{n} diagonal" if b == 1 else f"{n} in {math.ceil(n / b)} blocks of {b}"
    return cut if len(X) == 1 else f"{len(X)} x {cut}"


def blank_turns(seats: Sequence[Seat], method: Method, group: dict[str, Any]) -> Iterator[Turn]:
    """Every seat with the state that its first steps will give it, on the device without memory."""
    for seat in seats:
        names = tuple(name for name in seat.names if getattr(seat.module, name).requires_grad)
        if names:
            yield blank_turn(seat, names, method, group)


@torch.no_grad()
def blank_turn(seat: Seat, names: tuple[str, ...], method: Method, group: dict[str, Any]) -> Turn:
    """One seat with the state that its first steps will give it, on the device without memory."""
    shape = Seat(seat.path, weightless(seat.module), seat.names, seat.tied)
    params = shape.tensors(names)
    groups = [dict(group) for _ in names]
    turn = Turn(shape, names, params, [torch.zeros_like(p) for p in params], [{} for _ in names], groups)
    player = shape.player(names)
    turn.player = None if isinstance(player, Refusal) else player
    lay_out([turn], method, {})
    return turn


def weightless(module: nn.Module) -> nn.Module:
    """The module once more, with parameters that have shapes and no values. Everything else is the module's own."""
    twin = type(module).__new__(type(module))
    twin.__dict__.update(vars(module))  # not copy.copy: parametrized modules refuse it
    twin.__dict__["_parameters"] = {
        name: None if p is None else nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
        for name, p in module._parameters.items()
    }
    return twin


def bytes_of(x: Tensor) -> int:
    return x.numel() * x.element_size()


def adamw_bytes(params: Sequence[Tensor]) -> int:
    """Two moments for every number that trains."""
    return 2 * sum(bytes_of(p) for p in params if p.requires_grad)


def budget_of(budget: int | str | None, adamw: int) -> int | None:
    """Bytes of ``memory_budget``: a number of them, or "1.5x" for so many times what AdamW keeps.

    Raises ValueError for anything else.
    """
    if budget is None:
        return None
    text = str(budget).removesuffix("x") if isinstance(budget, str) and budget.endswith("x") else None
    times = float(text) if text and text.replace(".", "", 1).isdigit() else 0.0
    found = budget if isinstance(budget, int) and not isinstance(budget, bool) else int(times * adamw)
    if found < 1:
        raise ValueError(
            f"memory_budget={budget!r} is not known; give a number of bytes, or a text such as '1.5x' for one and a "
            "half times what AdamW keeps."
        )
    return found


def caps(curvature: Curvature) -> Iterator[Curvature]:
    """The curvature, then with whole factors and blocks of fewer and fewer rows, at last with diagonals alone."""
    yield curvature
    if isinstance(curvature, Kronecker):
        for power in range(curvature.max_factor.bit_length() - 1, -1, -1):
            size = min(2**power, curvature.max_factor)
            yield replace(curvature, max_factor=size, block_size=min(curvature.block_size, size))
