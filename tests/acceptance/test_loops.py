"""The training loops that people write around an optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from acceptance_cases import OPTIMIZERS, Make, Run, distance, every_optimizer, given_labels, same, weights
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.checkpoint import checkpoint


@every_optimizer
def test_step_with_a_closure(name: str) -> None:
    """Failing, code written for LBFGS or Lightning takes other steps than the plain loop, or gets no loss back."""
    run, plain = Run(name), Run(name)
    for step in range(4):

        def closure(step: int = step) -> Tensor:
            run.optimizer.zero_grad()
            loss = run.loss(step)
            loss.backward()
            return loss

        plain.step(step)
        assert run.optimizer.step(closure).item() == plain.losses[-1]
    assert distance(run.model, plain.model) == 0


@every_optimizer
def test_clip_grad_norm(name: str) -> None:
    """Failing, clipping is undone (steps follow the whole gradient), or a limit that never binds changes the run."""
    plain, free, held = Run(name), Run(name), Run(name)
    for step in range(4):
        plain.step(step)
        for run, limit in ((free, 1e6), (held, 1e-3)):
            run.optimizer.zero_grad()
            run.loss(step).backward()
            nn.utils.clip_grad_norm_(run.model.parameters(), limit)
            run.optimizer.step()
    assert distance(plain.model, free.model) == 0
    assert distance(plain.model, held.model) > 1e-9
    assert all(bool(p.isfinite().all()) for p in held.model.parameters())


Schedule = Callable[[torch.optim.Optimizer], Any]
SCHEDULES: dict[str, Schedule] = {
    "one-cycle": lambda optimizer: lr_scheduler.OneCycleLR(optimizer, 0.1, 10),
    "sequential": lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, [lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 3), lr_scheduler.CosineAnnealingLR(optimizer, 7)], [3]
    ),
    "plateau": lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0),
    "to-zero": lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 5),
}


@every_optimizer
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedulers(name: str, schedule: str) -> None:
    """Failing, a scheduler is refused, its rate is ignored, or a rate of zero still moves weights or breaks a step."""
    run = Run(name)
    scheduler = SCHEDULES[schedule](run.optimizer)
    start, rates = run.optimizer.param_groups[0]["lr"], []
    for step in range(9):
        before = weights(run.model)
        rates.append(run.optimizer.param_groups[0]["lr"])
        run.step(step)
        assert same(before, weights(run.model)) == (rates[-1] == 0)
        scheduler.step(*([1.0] if schedule == "plateau" else []))
    assert len(set(rates)) > 3
    assert all(bool(p.isfinite().all()) for p in run.model.parameters())
    assert schedule != "plateau" or rates[-1] < start / 8


@every_optimizer
def test_gradient_accumulation(name: str) -> None:
    """Failing, four small batches and one large one train to different weights, or only the last small one counts."""
    if name == "ekfac-nonlinear":
        return refused_in_a_sentence(name)
    run, whole = given_labels(Run(name)), given_labels(Run(name))
    for step in range(5):
        x = run.problem.draw(step).double()
        run.optimizer.zero_grad()
        for part in x.split(3):
            (run.problem.loss(run.model, part) / 4).backward()
        run.optimizer.step()
        whole.step(step)
    assert distance(run.model, whole.model) < 1e-10


def refused_in_a_sentence(name: str) -> None:
    run = Run(name)
    for step in range(2):
        run.loss(step).backward()
    with pytest.raises(ValueError, match="step after every backward pass"):
        run.optimizer.step()


class Checkpointed(nn.Module):
    """The network with all but its first and last layer run again on the way back."""

    def __init__(self, layers: nn.Sequential, reentrant: bool) -> None:
        super().__init__()
        self.first, self.middle, self.last = layers[0], layers[1:-1], layers[-1]
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.middle, self.first(x), use_reentrant=self.reentrant))


@every_optimizer
@pytest.mark.parametrize("reentrant", [False, True], ids=["saved-tensors", "reentrant"])
def test_activation_checkpointing(name: str, reentrant: bool) -> None:
    """Failing, saving memory changes the run: calls count twice, or checkpointed layers drop out of the method."""
    run, plain = Run("adamw"), given_labels(Run(name))
    run.model = run.call = Checkpointed(run.model, reentrant)
    run.optimizer = OPTIMIZERS[name](run.model)
    given_labels(run).train(range(5))
    plain.train(range(5))
    if name == "ekfac-nonlinear" and reentrant:  # counted, and the linear roll-out serves
        assert run.optimizer.diagnostics()["nonlinear roll-out missed a call"] == 5
    else:
        assert distance(run.model, plain.model) < 1e-12


@every_optimizer
def test_frozen_layers_and_requires_grad_toggled_mid_run(name: str) -> None:
    """Failing, gradual unfreezing moves frozen weights, or breaks when a layer comes back with other shapes."""
    run = Run(name)
    run.model[0].requires_grad_(False)
    run.optimizer = OPTIMIZERS[name](run.model)
    start = weights(run.model)
    run.train(range(4))
    assert torch.equal(run.model[0].weight, start["0.weight"])
    run.model[0].requires_grad_(True)
    run.model[3].bias.requires_grad_(False)
    run.optimizer.zero_grad()
    before = weights(run.model)
    run.train(range(4, 12))
    moved = {key for key, value in weights(run.model).items() if not torch.equal(value, before[key])}
    assert moved == before.keys() - {"3.bias"}
    assert all(bool(p.isfinite().all()) for p in run.model.parameters())


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend="aot_eager")


def built_before_the_first_call(run: Run, make: Make) -> None:
    run.call, run.optimizer = compiled(run.model), make(run.model)


def built_after_a_training_call(run: Run, make: Make) -> None:
    run.call = compiled(run.model)
    run.loss(0).backward()
    run.optimizer = make(run.model)


def built_of_the_compiled_module(run: Run, make: Make) -> None:
    run.call = compiled(run.model)
    run.optimizer = make(run.call)


def built_after_a_part_was_called(run: Run, make: Make) -> None:
    run.model[3].compile(backend="aot_eager")
    run.loss(0).backward()
    run.optimizer = make(run.model)


COMPILED = (
    built_before_the_first_call,
    built_after_a_training_call,
    built_of_the_compiled_module,
    built_after_a_part_was_called,
)


@every_optimizer
@pytest.mark.parametrize("build", COMPILED)
def test_torch_compile(name: str, build: Callable[[Run, Make], None]) -> None:
    """Failing, a compiled model stops with a compiler error, or loses the method and trains by gradients alone."""
    torch.compiler.reset()
    run, plain = Run("adamw"), Run(name)
    build(run, OPTIMIZERS[name])
    run.train(range(3))
    plain.train(range(3))
    assert distance(run.model, plain.model) < 1e-12
