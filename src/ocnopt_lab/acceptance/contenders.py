"""Who is put to the checks: torch's AdamW as the control, OCNOpt in every combination, and peers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ocnopt import OCNOpt
from ocnopt.core.record import ACCUMULATED
from ocnopt.curvature import TABLE, Curvature, Kronecker
from ocnopt_lab.acceptance import broken, peers
from ocnopt_lab.acceptance.check import Contender
from ocnopt_lab.acceptance.run import Make

CONTROL = "adamw"
VALUES = ("per-sample", "coupled")
ROLLOUTS = ("linear", "nonlinear")


def adamw(model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), 1e-2)


def without_draws(curvature: Curvature) -> Curvature:
    """With the labels of the batch in place of labels drawn from the model."""
    return replace(curvature, fisher="given") if isinstance(curvature, Kronecker) else curvature


def ours(name: str, curvature: str, value: str = "per-sample", rollout: str = "linear", **options: Any) -> Contender:
    """OCNOpt with these options, and what it says that it cannot do with them."""

    def make(chosen: Curvature, rollout: str = rollout) -> Make:
        return partial(OCNOpt, curvature=chosen, value=value, rollout=rollout, **options)

    kind = TABLE[curvature]()
    refuses: dict[str, str] = {}
    if rollout == "nonlinear":
        refuses |= {"gradient accumulation": ACCUMULATED, "DDP": "rollout='nonlinear' needs the whole batch in one"}
    if value == "coupled":
        refuses["DDP"] = "value='coupled' needs the whole batch in one process"
    given = without_draws(kind)
    return Contender(name, make(kind), make(given), make(given, "linear"), refuses, "ocnopt")


def combination(curvature: str, value: str, rollout: str) -> str:
    """The name of a combination: the curvature, and what is not the default."""
    return " ".join([curvature, *(x for x in (value, rollout) if x not in (VALUES[0], ROLLOUTS[0]))])


def _torch(name: str, make: Make, package: str = "torch") -> Contender:
    return Contender(name, make, make, make, package=package)


OURS: dict[str, Contender] = {
    name: ours(name, *parts)
    for value, rollout, curvature in product(VALUES, ROLLOUTS, TABLE)
    for parts in [(curvature, value, rollout)]
    for name in [combination(*parts)]
}
"""OCNOpt with every curvature, value and roll-out."""

FIXED = ours("kfac fixed", "kfac", search="fixed", lr=0.02)
"""Without the search, which has state and passes of its own."""

SINGLE, HALVED = {"precision": torch.float32, "rounding": 1e-4}, {"rounding": 5e-3}
_ROUNDING: dict[str, dict[str, Any]] = {"SOAP (heavyball)": SINGLE, "Muon + AdamW": HALVED}
"""heavyball computes in single precision, and Muon orthogonalises in bfloat16."""

PEERS: dict[str, Contender] = {
    name: replace(_torch(name, *peer), **_ROUNDING.get(name, {})) for name, peer in peers.TABLE.items()
}

BROKEN: dict[str, Contender] = {name: _torch(name, make) for name, make in broken.TABLE.items()}
"""Who must not pass."""

TABLE_OF_ALL: dict[str, Contender] = {
    contender.name: contender
    for contender in (_torch(CONTROL, adamw), *OURS.values(), FIXED, *PEERS.values(), *BROKEN.values())
}


def get(name: str) -> Contender:
    """The contender of that name. Raises KeyError for one that is not known."""
    return TABLE_OF_ALL[name]
