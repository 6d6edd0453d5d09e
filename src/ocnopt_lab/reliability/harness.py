"""Training under random faults, and what is left of it."""

from __future__ import annotations

import copy
import random
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.curvature import EKFAC, KFAC
from ocnopt_lab.reliability.faults import FAULTS, Deliberate, Loop
from ocnopt_lab.reliability.networks import FAMILIES, Family, compose, labels

SAMPLES = 8
AGE = 30
"""Steps after which decompositions come at their period, to which the runs skip."""
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
QUICK: dict[str, Any] = {"statistics_every": 3, "decompose_every": 5}
"""Statistics and decompositions that are due often enough to strike in a short run."""

OPTIONS: dict[str, tuple[Any, ...]] = {
    "curvature": (EKFAC(**QUICK), KFAC(**QUICK), "sgd", "rmsprop", "adam"),
    "search": ("bounded", "model", "fixed", "levenberg-marquardt", "backtracking"),
    "value": ("per-sample", "coupled", "robust"),
    "rollout": ("linear", "nonlinear"),
    "feedback": (1.0, 0.0),
}


@dataclass
class Outcome:
    """One run: which faults struck, what the optimizer counted, and what is wrong at the end (empty if nothing is)."""

    struck: Counter[str] = field(default_factory=Counter)
    counted: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def looped(family: Family, rng: random.Random, **options: Any) -> Loop:
    """A random network of the family and its optimizer."""
    torch.manual_seed(rng.randrange(2**31))
    model = compose(family, rng.choice)

    def draw(number: int) -> tuple[Tensor, Tensor]:
        x = family.draw(SAMPLES, torch.Generator().manual_seed(number))
        return x, labels(x)

    return Loop(model, OCNOpt(model, **options), draw)


def random_run(seed: int, faults: Sequence[str] = tuple(FAULTS), steps: int = 10) -> Outcome:
    """A few clean steps, ``steps`` of which every second one is faulty, and clean ones again."""
    rng = random.Random(seed)
    loop = looped(FAMILIES[rng.choice(list(FAMILIES))], rng, **{k: rng.choice(v) for k, v in OPTIONS.items()})
    outcome, hooks, start = Outcome(), hooks_of(loop.model), copy.deepcopy(loop.model.state_dict())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "OCNOpt skipped a step")
        trained(loop, range(4))
        loop.optimizer.clock["step"] = AGE
        for number in range(4, 4 + steps):
            if rng.random() < 0.5:
                loop.step(number)
            else:
                name = rng.choice(list(faults))
                outcome.struck[name] += faulty(loop, name, rng, number)
        outcome.struck["(weights lost)"] += put_back(loop, start, 4 + steps)
        before = [p.detach().clone() for p in loop.model.parameters()]
        trained(loop, range(5 + steps, 14 + steps))
    outcome.counted = loop.optimizer.diagnostics()
    outcome.wrong = [*verdict(loop, hooks), *standing(loop, before, outcome.struck)]
    return outcome


def put_back(loop: Loop, start: dict[str, Tensor], number: int) -> bool:
    """Whether a clean step is skipped, since the weights are too far away; those of the start serve then."""
    before = loop.optimizer.diagnostics()["steps skipped"]
    loop.step(number)
    lost = loop.optimizer.diagnostics()["steps skipped"] > before
    if lost:
        loop.model.load_state_dict(start)
    return lost


def trained(loop: Loop, numbers: range) -> None:
    for number in numbers:
        loop.step(number)


def faulty(loop: Loop, name: str, rng: random.Random, number: int) -> bool:
    """One step under a fault, whose exceptions are caught; whether it struck."""
    loop.struck = False
    try:
        with FAULTS[name](loop, rng):
            loop.step(number)
    except (Deliberate, KeyboardInterrupt):
        pass
    return loop.struck


def verdict(loop: Loop, hooks: int) -> list[str]:
    """What is not finite, or left over."""
    told = [f"the parameter {name} is not finite" for name, p in loop.model.named_parameters() if not sound(p)]
    names: dict[Tensor, str] = {p: name for name, p in loop.model.named_parameters()}
    for p, state in loop.optimizer.state.items():
        told += [f"{key} of {names[p]} is not finite" for key, x in state.items() if not sound(x)]
    clock = loop.optimizer.clock
    told += [f"{key} of the search is not finite" for key, x in clock.items() if not sound(x)]
    if hooks_of(loop.model) != hooks:
        told.append(f"the model has {hooks_of(loop.model)} hooks, not {hooks}")
    if loop.optimizer.capture.calls or loop.optimizer.capture.reached:
        told.append("a trajectory was left over")
    return told


def standing(loop: Loop, before: Sequence[Tensor], struck: Counter[str]) -> list[str]:
    """Parameters that clean steps no longer move.

    That may be after entries of 1e25, which move them far away, and with searches that take no step but a better one.
    """
    if getattr(loop.optimizer.search, "needs_closure", False) or any(struck[name] for name in struck if "1e25" in name):
        return []
    pairs = zip(loop.model.named_parameters(), before, strict=True)
    return [f"the parameter {name} stands still" for (name, p), old in pairs if moves(p) and p.equal(old)]


def moves(p: Tensor) -> bool:
    """Whether the last gradient could have moved it by more than rounding."""
    return p.grad is not None and float(p.grad.abs().max()) > 1e-4


def sound(x: Any) -> bool:
    """Whether a number, a tensor, or all that a container holds is finite."""
    if isinstance(x, dict):
        return all(map(sound, x.values()))
    if isinstance(x, list | tuple):
        return all(map(sound, x))
    numeric = isinstance(x, Tensor | int | float)
    return not numeric or bool(torch.as_tensor(x).isfinite().all())


def hooks_of(model: nn.Module) -> int:
    """How many hooks of any kind the modules hold."""
    return sum(len(getattr(module, name)) for module in model.modules() for name in HOOKS)


def many_runs(
    seeds: range, done: Callable[[int], None] = lambda n: None
) -> tuple[Counter[str], Counter[str], list[str]]:
    """(faults that struck, counts of the optimizers, what was wrong with which seed) over many random runs."""
    struck, counted, wrong = Counter[str](), Counter[str](), list[str]()
    for seed in seeds:
        outcome = random_run(seed)
        struck.update(outcome.struck)
        counted.update({name: int(n) for name, n in outcome.counted.items() if name in EVENTS and n})
        wrong += [f"seed {seed}: {text}" for text in outcome.wrong]
        done(seed)
    return struck, counted, wrong


EVENTS = (
    "steps skipped",
    "statistics not finite",
    "state begun anew",
    "decomposition failed",
    "decomposition out of memory",
    "cholesky in double",
    "cholesky with jitter",
    "eigh in double",
    "eigh with jitter",
    "feedback not finite",
    "search not finite",
    "step not finite",
    "feedback weights held",
)
"""Counts of the optimizer that tell of faults."""
