"""The control problem of a step that a run could take next, looked at without the run noticing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.core.bellman import Gain, Problem
from ocnopt.core.policy import Step
from ocnopt.game.coalition import Side
from ocnopt.observing import Blind, recursion
from ocnopt_lab.errors import LabError
from ocnopt_lab.optimizers import OptimizerConfig, build
from ocnopt_lab.policies.feedback import Feedback, feedback_of
from ocnopt_lab.runs.trainer import train_step
from ocnopt_lab.tasks import Task


class Recorder(Blind):
    """Keeps the policies that a step proposes first, before it moves anything."""

    def __init__(self) -> None:
        self.found: dict[str, Feedback] = {}
        self.left_out: list[str] = []

    def gains(self, problem: Problem) -> Sequence[Gain]:
        return recursion(problem)

    def proposed(self, problem: Problem, sides: Sequence[Side], gains: Sequence[Gain], steps: Sequence[Step]) -> None:
        if self.found:
            return
        for gain in gains:
            feedback = feedback_of(gain, problem.value)
            if feedback is None:
                self.left_out.append(gain.stage.label)
            else:
                self.found[gain.stage.label] = feedback


@dataclass(frozen=True)
class Batch:
    """Inputs, targets and what is learned."""

    x: Tensor
    y: Tensor
    task: Task


@dataclass(frozen=True)
class Recorded:
    """Policies by the path of their layer, in forward order, and the model at whose weights they are.

    batch: what they react on.
    left_out: stages without one: other kinds of layers, layers that are called more than once, shared stages.
    """

    model: nn.Module
    policies: Mapping[str, Feedback]
    left_out: Sequence[str]
    batch: Batch

    def pulled_back(self, x: Tensor, path: str, direction: Tensor) -> Tensor:
        """Jᵀ v: a direction v (N, ...) at what enters a layer, seen from the model's input x (N, ...)."""
        entered: list[Tensor] = []
        hook = self.model.get_submodule(path).register_forward_pre_hook(lambda _, args: entered.append(args[0]))
        with hook, torch.enable_grad():
            start = x[: len(direction)].detach().requires_grad_()
            self.model(start)
        (image,) = torch.autograd.grad(entered[0], start, direction.to(entered[0]))
        return image


def record(model: nn.Module, optimizer: torch.optim.Optimizer, config: OptimizerConfig, batch: Batch) -> Recorded:
    """The policies of the step that ``optimizer``, made of ``config``, would take on the batch; nothing of it moves.

    Raises LabError where the optimizer has no policy.
    """
    if not isinstance(optimizer, OCNOpt):
        raise LabError(f"The optimizer {config.label} has no feedback policy; train with --optimizer.name ocnopt.")
    own = deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        twin = build(replace(config, feedback_every=1), own)  # where the feedback rests there is no policy
        assert isinstance(twin, OCNOpt)
        twin.load_state_dict(deepcopy(optimizer.state_dict()))  # torch's own does not copy the tensors
        for group in twin.param_groups:  # a schedule that has ended leaves a rate of zero, and with it no policy
            group["lr"] = group.get("initial_lr", group["lr"])
        recorder = twin.watch = Recorder()
        weights = deepcopy(own.state_dict())
        train_step(twin, lambda: loss_of(own, batch))
    twin.remove_hooks()
    own.load_state_dict(weights)
    if not recorder.found:
        raise LabError("No layer of this run has a feedback policy: is its feedback 0, or are all its stages shared?")
    return Recorded(own, recorder.found, recorder.left_out, batch)


def loss_of(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    output = model(batch.x)
    return batch.task.loss(output, batch.y), output
