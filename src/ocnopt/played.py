"""What the passes have made of one step, and the directions of its quadratic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .core.policy import Step
from .core.protocols import Params
from .core.stage import Stage, inner
from .gathering import Boundary
from .linalg.symmetric import Tally
from .observing import BLIND, Blind


@dataclass(frozen=True)
class Played:
    """What the passes made of the control problem of one step: its stages, and the step of each."""

    stages: Sequence[Stage]
    steps: Sequence[Step]
    boundary: Boundary
    tally: Tally = field(default_factory=Tally)
    watch: Blind = BLIND


def directions(played: Played) -> tuple[Tensor, Tensor, Tensor]:
    """b (2,), R (2, N, r) and DᵀD (2, 2) of the policy's step and the previous one."""
    some = played.steps[0].response
    pairs = [*zip(played.stages, played.steps, strict=True)]
    again = [(stage, step, stage.previous) for stage, step in pairs if stage.previous is not None]
    products = (
        [(step.step, stage.gradient) for stage, step in pairs],
        [(u, stage.gradient) for stage, _, u in again],
        [(step.step, step.step) for _, step in pairs],
        [(step.step, u) for _, step, u in again],
        [(u, u) for _, _, u in again],
    )
    b_0, b_1, fresh, mixed, ball = (summed(some, few) for few in products)
    carried = [step.carried for step in played.steps if step.carried is not None] or [torch.zeros_like(some)]
    R = torch.stack([torch.stack(x).sum(0) for x in ([step.response for step in played.steps], carried)])
    return torch.stack([b_0, b_1]), R, torch.stack([fresh, mixed, mixed, ball]).view(2, 2)


def summed(like: Tensor, pairs: Sequence[tuple[Params, Params]]) -> Tensor:
    """Σ ⟨x, y⟩ over the parameters of all pairs, as a number of this dtype."""
    x, y = ([a for pair in pairs for a in pair[side]] for side in (0, 1))
    return inner(x, y).to(like) if x else like.new_zeros(())


def on_host(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The same few numbers where plain Python reads them: host and device meet once, not for each."""
    flat = torch.cat([x.flatten().to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]).cpu()
    parts = flat.split([x.numel() for x in tensors])
    return tuple(part.view_as(x) for part, x in zip(parts, tensors, strict=True))


def curvatures(played: Played, R: Tensor) -> tuple[float, float] | None:
    """Along the policy's step: Σ_i (u_iᵀ δh_i)² of draws u, and Σ_i C_i (v_iᵀ δh_i)²; None in steps without draws.

    R: the responses of that step, (N, 1).
    """
    drawn = [stage.drawn(step.step) for stage, step in zip(played.stages, played.steps, strict=True)]
    if any(part is None for part in drawn):
        return None
    along = torch.stack([part for part in drawn if part is not None]).sum(0).square()
    weight, C = played.boundary.samples.weight, weighted_core(played.boundary)[:, 0, 0]
    measured, modelled = on_host((along if weight is None else weight * along).sum(), (C * R[:, 0].square()).sum())
    return float(measured), float(modelled)


def weighted_core(boundary: Boundary) -> Tensor:
    """C with the number of samples that each kept one stands for."""
    weight = boundary.samples.weight
    return boundary.C if weight is None else boundary.C * weight[:, None, None]
