"""The training loops that people write around an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.utils.checkpoint import checkpoint

from ocnopt_lab.acceptance.check import Bench, Contender, require
from ocnopt_lab.acceptance.networks import moved_and_finite
from ocnopt_lab.acceptance.run import Make, Run, distance, same, weights

STEPS = 4


def alike(first: nn.Module, second: nn.Module, tolerance: float, what: str) -> None:
    """Raise Failed unless the weights are the same up to rounding."""
    found = distance(first, second)
    require(found < tolerance, f"{what} by {found:.1e}")


def compiled(module: nn.Module) -> Any:
    """With the graphs of torch.compile, and without generated code, which an optimizer does not see."""
    return torch.compile(module, backend="aot_eager")


def built_before_the_first_call(run: Run, make: Make) -> None:
    run.call, run.optimizer = compiled(run.model), make(run.model)


def built_after_a_training_call(run: Run, make: Make) -> None:
    run.call = compiled(run.model)
    run.loss(0).backward()
    run.optimizer = make(run.model)


def compiling(contender: Contender, bench: Bench) -> None:
    """Optimizers built before and after the first call of the compiled model."""
    plain = contender.run(problem="shallow").train(range(3))
    for build in (built_before_the_first_call, built_after_a_training_call):
        torch.compiler.reset()
        run = contender.run(plain_sgd, "shallow")
        build(run, contender.make)
        run.train(range(3))
        what = f"{build.__name__.replace('_', ' ')}, weights differ from those without compile"
        alike(run.model, plain.model, contender.rounding, what)


SCHEDULES: dict[str, Callable[[Optimizer], Any]] = {
    "OneCycleLR": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, 6),
    "ReduceLROnPlateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0),
    "LinearLR to zero": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 3),
}


def schedulers(contender: Contender, bench: Bench) -> None:
    """Every schedule moves the rate, and weights move when, and only when, the rate is not zero.

    The very first step may be for measuring alone, as SOAP's is.
    """
    for name, schedule in SCHEDULES.items():
        run = contender.run()
        scheduler, rates = schedule(run.optimizer), set()
        for step in range(5):
            rate, before = run.optimizer.param_groups[0]["lr"], weights(run.model)
            run.step(step)
            rates.add(rate)
            moved = not same(before, weights(run.model))
            right = moved == (rate != 0) or (step == 0 and not moved)
            require(right, f"{name}: at a rate of {rate:g} weights {'move' if moved else 'stay'}")
            scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
        require(len(rates) > 3, f"{name}: the rate does not change")


def closure(contender: Contender, bench: Bench) -> None:
    """``step(closure)`` takes the step of the plain loop and returns the closure's loss."""
    run, plain = contender.run(), contender.run()
    for step in range(3):

        def evaluated(step: int = step) -> Tensor:
            run.optimizer.zero_grad()
            loss = run.loss(step)
            loss.backward()
            return loss

        plain.step(step)
        returned: Any = run.optimizer.step(evaluated)  # type: ignore[arg-type]
        require(returned is not None and returned.item() == plain.losses[-1], f"step(closure) returns {returned}")
    require(distance(run.model, plain.model) == 0, "weights differ from those of the plain loop")


def clipping(contender: Contender, bench: Bench) -> None:
    """A limit that never binds changes nothing, and one that always does changes the step."""
    plain, free, held = (contender.run() for _ in range(3))
    before = weights(held.model)
    for step in range(3):
        plain.step(step)
        for run, limit in ((free, 1e6), (held, 1e-3)):
            run.optimizer.zero_grad()
            run.loss(step).backward()
            nn.utils.clip_grad_norm_(run.model.parameters(), limit)
            run.optimizer.step()
    require(distance(plain.model, free.model) == 0, "a limit that never binds changes the steps")
    require(distance(plain.model, held.model) > 1e-9, "steps are those of gradients that were not clipped")
    moved_and_finite({}, weights(held.model))
    require(not same(before, weights(held.model)), "nothing moves where gradients are clipped")


def accumulation(contender: Contender, bench: Bench) -> None:
    """Four small batches and one large one."""
    run, whole = contender.run(contender.given), contender.run(contender.given)
    for step in range(3):
        run.optimizer.zero_grad()
        for part in run.batch(step).split(3):
            (run.problem.loss(run.model, part) / 4).backward()
        run.optimizer.step()
        whole.step(step)
    alike(run.model, whole.model, rounding(contender), "weights differ from those of whole batches")


def rounding(contender: Contender) -> float:
    """What a few steps may differ by where sums are taken in another order.

    A method that rounding sends elsewhere, through eigenvectors of singular matrices, is granted as much as it
    differs by when nothing but the order of the samples is turned round.
    """
    run, turned = contender.run(contender.given), contender.run(contender.given)
    draw = run.problem.draw
    turned.problem = run.problem._replace(draw=lambda step: draw(step).flip(0))
    return max(contender.rounding, 10 * distance(run.train(range(STEPS)).model, turned.train(range(STEPS)).model))


class Checkpointed(nn.Module):
    """The network with all but its first and last layer run again on the way back."""

    def __init__(self, layers: Any, reentrant: bool) -> None:
        super().__init__()
        self.first, self.middle, self.last = layers[0], layers[1:-1], layers[-1]
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.middle, self.first(x), use_reentrant=self.reentrant))


def checkpointing(contender: Contender, bench: Bench) -> None:
    """Both kinds. Reentrant ones hide their calls from whoever wants to call modules a second time."""
    for reentrant, reference in ((False, contender.given), (True, contender.unrepeated)):
        plain, run = contender.run(reference).train(range(4)), contender.run(plain_sgd)
        run.model = run.call = Checkpointed(run.model, reentrant)
        run.optimizer = contender.given(run.model)
        run.train(range(4))
        kind = "reentrant" if reentrant else "non-reentrant"
        alike(run.model, plain.model, contender.rounding, f"{kind}: weights differ from those without checkpointing")


def plain_sgd(model: nn.Module) -> Optimizer:
    """A placeholder until the model has its final form."""
    return torch.optim.SGD(model.parameters())


def freezing(contender: Contender, bench: Bench) -> None:
    """The first layer is frozen to begin with, and a bias later."""
    run = contender.run(plain_sgd)
    run.model.get_submodule("0").requires_grad_(False)
    run.optimizer = contender.make(run.model)
    start = weights(run.model)
    run.train(range(4))
    require(same(start["0.weight"], weights(run.model)["0.weight"]), "frozen weights move")
    run.model.get_submodule("0").requires_grad_(True)
    run.model.get_parameter("3.bias").requires_grad_(False)
    run.optimizer.zero_grad()
    before = weights(run.model)
    run.train(range(4, 8))
    after = weights(run.model)
    require(same(before["3.bias"], after.pop("3.bias")), "a bias that was frozen mid-run moves")
    moved_and_finite({name: before[name] for name in ("0.weight", "0.bias", "3.weight")}, after)
