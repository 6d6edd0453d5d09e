"""The least that a step of a variant must do.

F is the work of the model's forward pass. A training step is that and two products of the same size for each layer,
by which the backward pass finds the gradients of inputs and parameters: 3F, less the first layer's gradient of the
inputs, which nobody asks for; so the passes of torch's own Adam are counted. Linear feedback on a share s of the batch
adds a response and a weighted pull, 2sF, and a nonlinear roll-out one more forward pass. The model search wants the
responses of two directions, one of which the feedback has already. A metric has no floor: all it costs is above.
Everything elementwise is one pass over the parameters, their gradients and the state of their shape.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

from torch.optim import Optimizer

from ocnopt import OCNOpt
from ocnopt.core.rollout import Nonlinear
from ocnopt.curvature.kronecker import OWN
from ocnopt.planning import EAGER
from ocnopt_lab.profiling.counting import leaves, size


@dataclass(frozen=True)
class Floor:
    """added: operations beyond the passes of training, in units of F.  bytes: of one elementwise pass.

    period: steps in which the work of a step repeats.
    """

    added: float
    bytes: int
    period: int


def floor_of(optimizer: Optimizer, batch: int) -> Floor:
    """batch: samples of a step."""
    if not isinstance(optimizer, OCNOpt):
        return Floor(0.0, elementwise(optimizer), 1)
    seen = optimizer.feedback_samples
    share = 1.0 if seen is None else min(1.0, seen / batch)
    return Floor(products(optimizer, share), elementwise(optimizer), period(optimizer))


def products(optimizer: OCNOpt, share: float) -> float:
    """Beyond torch's own."""
    feeds, searches = optimizer.feedback > 0, optimizer.search is not None
    responses = max(int(feeds), 2 * searches)
    again = feeds and optimizer.rollout_kind is Nonlinear
    return (share * (responses + feeds) + again) / optimizer.period()


def elementwise(optimizer: Optimizer) -> int:
    """Parameters read and written, gradients read, state of a parameter's shape read and written; bytes."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    kept = 0
    for p in params:
        entries = ((k, v) for k, v in optimizer.state.get(p, {}).items() if k not in OWN)
        kept += sum(size(x) for _, value in entries for x in leaves(value) if x.shape == p.shape)
    return 3 * sum(map(size, params)) + 2 * kept


def period(optimizer: OCNOpt) -> int:
    """Steps after which all work has been done as often as on average."""
    curvature = optimizer.paced(EAGER + 1)
    periods = [getattr(curvature, name, 1) for name in ("period", "decompose_every")]
    return lcm(*periods, optimizer.period())
