"""From hooks and gradients to the control problem of one step: who plays, with which metric, on which samples."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .core.capture import Capture
from .core.merging import merged
from .core.protocols import Params
from .core.ranks import ALONE, Ranks
from .core.stage import Metric, Samples, Stage
from .core.terminal import Auto, Terminal
from .core.trajectory import Call, Sweep
from .curvature.factors import Evidence
from .players import Refusal
from .players.base import ModulePlayer
from .seats import Seat

State = dict[str, Any]
Group = dict[str, Any]


@dataclass(eq=False)
class Turn:
    """A seat in one step.

    params, gradients (p.grad + ℓ_θ), states, groups: one entry for each parameter that has a gradient.
    player: who speaks for them, or None, with the reason.  calls: what was captured of the player.
    witnesses: the calls that statistics look at. An adjoint that solves anew for every pass has calls for draws alone.
    kronecker: whether the metric is the Kronecker curvature's own, not its companion's.
    feedback: whether the seat takes part in the Bellman pass; reason: why not; terminal: with which factor.
    rests: whether its group's period lets it move in another step only; its statistics are gathered all the same.
    shares: the stage that it shares with others, as the paths of all of them.
    evidence: the rows that its Kronecker statistics have seen in this step.
    denominators: of its diagonal metric, for each parameter; empty where nobody has asked for them.
    effective: −M δθ.  step: δθ.  Both are filled in by the passes.
    bound: no entry of a gradient is larger.
    """

    seat: Seat
    names: tuple[str, ...]
    params: list[Tensor]
    gradients: list[Tensor]
    states: list[State]
    groups: list[Group]
    player: ModulePlayer | None = None
    calls: list[Call] = field(default_factory=list)
    witnesses: list[Call] = field(default_factory=list)
    metric: Metric | None = None
    kronecker: bool = False
    feedback: bool = False
    reason: str = ""
    terminal: str = ""
    rests: bool = False
    shares: str = ""
    evidence: list[Evidence] = field(default_factory=list)
    denominators: Sequence[Tensor | float] = ()
    effective: Sequence[Tensor] = ()
    step: Params = ()
    bound: float = math.inf

    @property
    def state(self) -> State:
        """Where what belongs to the player as a whole is kept."""
        return self.states[0]

    @property
    def order(self) -> int:
        return self.calls[0].order if self.calls else -1


def turn_of(seat: Seat, names: tuple[str, ...], groups: dict[int, Group], step: int) -> Turn:
    """The seat with those of its parameters that have gradients, and its player if it has one; no states yet.

    Of these, only the ones whose group's period ends with this step; where there are none, the turn rests.
    """
    owners = {name: groups[id(p)] for name, p in zip(names, seat.tensors(names), strict=True)}
    due = tuple(name for name, group in owners.items() if step % group.get("period", 1) == 0)
    names = due or names
    params = seat.tensors(names)
    gradients = [require_dense(p.grad, seat, name) for p, name in zip(params, names, strict=True)]
    turn = Turn(seat, names, params, gradients, [], [owners[name] for name in names], rests=not due)
    player = seat.player(names)
    if isinstance(player, Refusal):
        turn.reason = player.reason
    else:
        turn.player = player
    return turn


def require_dense(gradient: Tensor | None, seat: Seat, name: str) -> Tensor:
    if gradient is None or gradient.is_sparse:
        raise RuntimeError(
            f"The gradient of {seat.dotted(name)} is sparse; OCNOpt needs dense ones: "
            "build the layer with sparse=False."
        )
    return gradient


def require_core(turns: Sequence[Turn], capture: Capture, terminal: Terminal) -> None:
    """Raise what the terminal factor has to say against this trajectory, before anything has changed."""
    if isinstance(terminal, Auto):
        return
    for sweep in {call.sweep for turn in turns if turn.feedback for call in turn.calls}:
        core_of(capture.sweeps[sweep], terminal, 1, turns[0].gradients[0], 1)


def seat_calls(turns: Sequence[Turn], capture: Capture) -> None:
    """Give every turn the calls of its module, and say which of them can take part in the feedback."""
    sizes = {sweep: batch_of(capture, sweep) for sweep in {c.sweep for cs in capture.calls.values() for c in cs}}
    for turn in turns:
        if turn.player is None:
            continue
        seen = capture.calls.get(turn.seat.module, [])
        turn.calls = [call for call in seen if call.leaves]
        drawn = {call.sweep for call in seen if call.draws}
        turn.witnesses = [call for call in seen if (call.draws if call.sweep in drawn else call.leaves)]
        turn.reason = obstacle(turn, sizes, capture)
        turn.feedback = not turn.reason


def seat_again(turns: Sequence[Turn]) -> None:
    """Where the feedback rests nothing is captured: who took part when it last ran has the direction of that step."""
    for turn in turns:
        turn.feedback = turn.player is not None and all("direction" in state for state in turn.states)


def obstacle(turn: Turn, sizes: dict[int, int], capture: Capture) -> str:
    """Why its calls cannot take part in the feedback; empty if they can."""
    if capture.keep == 0:
        return "With feedback=0 at a fixed step, or where the feedback rests, nothing takes part."
    if turn.seat.module in capture.refusals:
        return capture.refusals[turn.seat.module]
    if not turn.calls:
        return "No call of its module was captured in this step."
    for call in turn.calls:
        if call.batch != sizes[call.sweep]:
            return f"Its batch of {call.batch} is not the model's batch of {sizes[call.sweep]}."
        if len(call.columns) != capture.sweeps[call.sweep].rank:
            return "The columns of the terminal factor did not reach it."
    return ""


def batch_of(capture: Capture, sweep: int) -> int:
    """Samples of a sweep: as the model's input says where some player agrees, else what most calls have."""
    seen = Counter(call.batch for calls in capture.calls.values() for call in calls if call.sweep == sweep)
    declared = capture.sweeps[sweep].batch
    return declared if declared is not None and declared in seen else seen.most_common(1)[0][0]


@dataclass(frozen=True)
class Boundary:
    """The terminal condition: C (N, r, r) over the kept samples, their layout, and which factor it is.

    batch: samples of the whole step.  labels: the same, with each label of a sample where the loss shows them.
    coordinates: of v in the columns, (N, r), None for Y = v.
    loss: of the whole step, None where the trajectory does not show it.
    ranks: the processes that share the batch; C and what goes with it are of this one's samples.
    """

    C: Tensor
    samples: Samples
    batch: int
    labels: int
    name: str
    coordinates: Tensor | None
    loss: float | None = None
    ranks: Ranks = ALONE

    def share(self, keep: int | None) -> float:
        """Of the step's samples, those that were kept when ``keep`` of each sweep may be; the same on all ranks."""
        return 1.0 if keep is None else min(1.0, keep * len(self.samples.rows) * self.ranks.size / self.batch)


def boundary_of(
    turns: Sequence[Turn], capture: Capture, terminal: Terminal, like: Tensor, keep: int | None
) -> Boundary:
    """The terminal core of all sweeps that took part, for the first ``keep`` samples of each."""
    numbers = sorted({call.sweep for turn in turns for call in turn.calls})
    sizes = [batch_of(capture, n) for n in numbers]
    kept = [size if keep is None else min(size, keep) for size in sizes]
    ends = torch.tensor(kept).cumsum(0).tolist()
    rows = {n: slice(end - m, end) for n, end, m in zip(numbers, ends, kept, strict=True)}
    weights = torch.cat([like.new_full((m,), size / m) for m, size in zip(kept, sizes, strict=True)])
    sweeps = [capture.sweeps[n] for n in numbers]
    batch, labels, loss = whole_step(sum(sizes), *labels_and_loss(sweeps, sizes), capture.ranks)
    parts = [core_of(sweep, terminal, batch, like, m) for sweep, m in zip(sweeps, kept, strict=True)]
    return Boundary(
        torch.cat([C for C, _ in parts]),
        Samples(rows, None if kept == sizes else weights),
        batch,
        labels,
        parts[0][1],
        joint_rows([sweep.coordinates for sweep in sweeps], kept),
        loss,
        capture.ranks,
    )


def whole_step(batch: int, labels: int, loss: float | None, ranks: Ranks) -> tuple[int, int, float | None]:
    """Samples, labels and loss of all ranks, from those of this one."""
    samples, counted, total, unknown = ranks.numbers(batch, labels, loss or 0.0, loss is None)
    return int(samples), int(counted), None if unknown else total


def labels_and_loss(sweeps: Sequence[Sweep], sizes: Sequence[int]) -> tuple[int, float | None]:
    """Labels of all sweeps, samples where a loss does not show any; and the loss, where every sweep shows its own."""
    pairs = zip(sweeps, sizes, strict=True)
    counted = [(size, None) if sweep.seen is None else sweep.seen.counted() for sweep, size in pairs]
    losses = [loss for _, loss in counted if loss is not None]
    return sum(labels for labels, _ in counted), sum(losses) if len(losses) == len(counted) else None


def joint_rows(parts: Sequence[Tensor | None], kept: Sequence[int]) -> Tensor | None:
    """The first rows of all parts below one another; None where a part is."""
    heads = [part[:m] for part, m in zip(parts, kept, strict=True) if part is not None]
    return torch.cat(heads) if len(heads) == len(parts) else None


def core_of(sweep: Sweep, terminal: Terminal, batch: int, like: Tensor, m: int) -> tuple[Tensor, str]:
    """C (m, r, r) of the first m samples of a sweep."""
    if sweep.rank and sweep.core is not None:
        return sweep.core[:m].to(like), f"{sweep.rank} columns"
    core, name = terminal.core(sweep.head(m), batch)
    full = core.to(like) if isinstance(core, Tensor) else like.new_full((m,), core)
    return full[:, None, None], name


def stage_of(turn: Turn, boundary: Boundary, samples: Samples) -> Stage:
    """The turn as the passes see it."""
    rows, player = boundary.samples.rows, turn.player
    assert player is not None
    calls = [player.head(c, rows[c.sweep].stop - rows[c.sweep].start) for c in turn.calls]
    return Stage(
        player,  # type: ignore[arg-type]
        turn.metric,  # type: ignore[arg-type]
        merged(calls) if player.merges else calls,
        tuple(turn.gradients),
        samples,
        boundary.C.shape[-1],
        label=turn.seat.path,
        ranks=boundary.ranks,
        seen=getattr(turn.metric, "seen", None),
    )
