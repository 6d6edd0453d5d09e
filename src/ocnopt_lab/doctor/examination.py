"""What is known of a model before any data: players, metrics, the memory they keep, the work they make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from ocnopt import OCNOpt
from ocnopt.curvature import EKFAC, Curvature, Kronecker
from ocnopt.finiteness import tensors_of
from ocnopt.gathering import Turn
from ocnopt.memory import blank_turn, bytes_of
from ocnopt.players import Refusal
from ocnopt.players.base import MatrixModulePlayer
from ocnopt.reporting import kind
from ocnopt.seats import Seat
from ocnopt.trials import method_of
from ocnopt_lab.errors import LabError

MEDIUM, HIGH = 256, 2048
"""Rows from which the work of a metric is of medium and of high cost."""


@dataclass(frozen=True)
class Layer:
    """One module with parameters of its own, as OCNOpt would train it.

    reason: why there is no player, "" where there is one.  parameters: numbers that train; frozen: that do not.
    state: bytes that the optimizer keeps for it from the first steps on.
    rows: the work of its metric in a step, in rows of activations (samples times positions): with as many rows in
        the batch it takes as long as the layer's own forward and backward pass. 0 for diagonals.
    """

    path: str
    module: str
    player: str
    metric: str
    reason: str
    parameters: int
    frozen: int
    state: int
    rows: float

    @property
    def feedback(self) -> bool:
        """Whether it can take part, as far as is known before any data."""
        return self.player != "none" and self.parameters > 0

    @property
    def cost(self) -> str:
        """Of the metric, against batches of some hundreds to thousands of rows."""
        return "low" if self.rows < MEDIUM else "medium" if self.rows < HIGH else "high"


def examine(model: nn.Module, curvature: str | Curvature) -> list[Layer]:
    """Every layer that OCNOpt would train or leave frozen. Raises LabError where it refuses the model."""
    lazy = [name for name, p in model.named_parameters() if isinstance(p, UninitializedParameter)]
    if lazy:
        raise LabError(f"{lazy[0]} is lazy and has no shape yet; call the model once where it is made.")
    try:
        optimizer = OCNOpt(model, curvature=curvature)
    except ValueError as error:
        raise LabError(str(error)) from error
    optimizer.remove_hooks()
    return [layer_of(seat, optimizer) for seat in optimizer.seats]


def layer_of(seat: Seat, optimizer: OCNOpt) -> Layer:
    names = tuple(name for name in seat.names if getattr(seat.module, name).requires_grad)
    player = seat.player(names or seat.names)
    method = method_of(optimizer.curvature, optimizer.search, optimizer.value, {})
    turn = blank_turn(seat, names, method, optimizer.param_groups[0]) if names else None
    return Layer(
        path=seat.name,
        module=type(seat.module).__name__,
        player="none" if isinstance(player, Refusal) else kind(player),
        metric="" if turn is None else metric_of(turn),
        reason=player.reason if isinstance(player, Refusal) else "",
        parameters=sum(p.numel() for p in seat.tensors(names)),
        frozen=sum(p.numel() for p in seat.tensors(seat.names) if not p.requires_grad),
        state=0 if turn is None else size(turn.states),
        rows=0.0 if turn is None else rows_of(turn, optimizer.curvature),
    )


def metric_of(turn: Turn) -> str:
    if not turn.kronecker:
        return "diagonal"
    return "eigen" if "S" in turn.state else "kronecker"


def size(states: list[dict[str, Any]]) -> int:
    """Bytes of all tensors."""
    return sum(map(bytes_of, tensors_of(states)))


def rows_of(turn: Turn, curvature: Any) -> float:
    """Two solves a step and the decompositions, of which each comes once in a period, over the layer's own passes.

    One solve is enough in an eigenbasis where few rows are looked at (``core.turned``): this is the most.
    A row costs 6 n m operations. A solve is a product with both factors, 2 n m b for each in blocks of b rows, and in
    an eigenbasis twice that; an inverse takes about n b², a basis about 9 n b².
    """
    if not (turn.kronecker and isinstance(curvature, Kronecker) and isinstance(turn.player, MatrixModulePlayer)):
        return 0.0
    A, B = turn.state["A"], turn.state["B"]
    n, m = A.shape[1], B.shape[1]
    sides = [tuple(X.shape[1:]) for X in (A, B) if X.dim() == 3]
    eigen = isinstance(curvature, EKFAC) and "S" in turn.state
    solves = 2 * (2 if eigen else 1) * 2 * n * m * sum(b for _, b in sides)
    decompositions = (9 if eigen else 1) * sum(side * b**2 for side, b in sides) / curvature.decompose_every
    return (solves + decompositions) / (6 * n * m)


def total(layers: list[Layer], name: str) -> int:
    return sum(getattr(layer, name) for layer in layers)


def parameter_bytes(model: nn.Module) -> int:
    """Of the parameters that train."""
    return sum(bytes_of(p) for p in model.parameters() if p.requires_grad)
