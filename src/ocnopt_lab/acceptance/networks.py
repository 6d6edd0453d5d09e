"""The networks that people train, and lower precision: every parameter moves, the loss falls, nothing is rounded."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor

from ocnopt_lab.acceptance.check import Bench, Body, Contender, require
from ocnopt_lab.acceptance.run import Run, same, weights

STEPS = 6


def learned(run: Run) -> None:
    """Train on one batch, and check what every user looks at first."""
    before = weights(run.model)
    run.train([0] * STEPS)
    moved_and_finite(before, weights(run.model))
    lower(run)


def lower(run: Run) -> None:
    first, last = run.losses[0], min(run.losses[-3:])
    require(last < 0.99 * first, f"after {STEPS} steps on one batch the loss is {last:.3f}, and was {first:.3f}")


def moved_and_finite(before: dict[str, Tensor], after: dict[str, Tensor]) -> None:
    still = [name for name in before if torch.equal(before[name], after[name])]
    require(not still, f"stays where it is: {', '.join(still)}")
    lost = [name for name, p in after.items() if not bool(p.isfinite().all())]
    require(not lost, f"is not finite: {', '.join(lost)}")


def trains(*problems: str) -> Body:
    """The networks of these problems."""

    def body(contender: Contender, bench: Bench) -> None:
        for problem in problems:
            learned(Run(contender.make, problem, torch.float32))

    return body


def autocast(contender: Contender, bench: Bench) -> None:
    """Forward passes in bfloat16, parameters and state in float32."""
    for problem in ("mlp", "batchnorm-cnn"):
        run = Run(contender.make, problem, torch.float32)
        run.around = halved
        run.train([0] * STEPS)
        moved_and_finite({}, weights(run.model))
        lower(run)
        half = [key for key, x, _ in tensors(run) if x.dtype == torch.bfloat16]
        require(not half, f"state in bfloat16: {', '.join(half)}")
        require(all(p.dtype == torch.float32 for p in run.model.parameters()), "parameters have changed their dtype")


def halved() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


def tensors(run: Run) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Key, tensor and parameter of everything floating in the state."""
    for p, state in run.optimizer.state.items():
        yield from ((key, x, p) for key, x in state.items() if isinstance(x, Tensor) and x.is_floating_point())


def half_parameters(contender: Contender, bench: Bench) -> None:
    """Parameters in bfloat16. What is shaped like its parameter may be in bfloat16, as AdamW's moments are."""
    run, other = (Run(contender.make, "mlp", torch.bfloat16) for _ in range(2))
    run.train([0] * STEPS)
    moved_and_finite({}, weights(run.model))
    lower(run)
    require(all(p.dtype == torch.bfloat16 for p in run.model.parameters()), "parameters have changed their dtype")
    factors = [(key, x) for key, x, p in tensors(run) if x.ndim > 1 and x.shape != p.shape]
    half = sorted({key for key, x in factors if x.dtype == torch.bfloat16})
    require(not half, f"factors in bfloat16: {', '.join(half)}")
    saved = deepcopy(run.optimizer.state_dict())
    other.optimizer.load_state_dict(deepcopy(saved))
    require(same(saved, other.optimizer.state_dict()), "loading the state changes it")
