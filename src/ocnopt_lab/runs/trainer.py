"""The training loop: seeded, resumable after any step, timed over the steps alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import torch
from torch import Tensor, optim

from ocnopt_lab.data import Dataset
from ocnopt_lab.optimizers import build, build_schedule
from ocnopt_lab.problems import Problem
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.evaluate import evaluate
from ocnopt_lab.runs.solving import evaluations, reporting, solving
from ocnopt_lab.tasks.base import Scores

DIVERGED_AFTER = 50  # consecutive steps with a loss that is not finite
_START_SAMPLES = 1000
_UNSOLVED = (math.nan, math.nan)  # a step whose ODE could not be solved has no loss


@dataclass
class Counters:
    """Where a run stands; `loss_sum`, `counted` and `seen` belong to the current epoch."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    counted: float = 0.0  # what the task counts beside the loss
    seen: int = 0
    nonfinite_in_a_row: int = 0
    nonfinite: int = 0
    group_loss: float = 0.0  # sum over the steps since the last row of metrics
    group_steps: int = 0
    group_evaluations: dict[str, int] = field(default_factory=dict)  # of a vector field, summed like the loss
    step_seconds: list[float] = field(default_factory=list)

    def next_epoch(self) -> None:
        """Starts the sums of an epoch from zero."""
        self.epoch += 1
        self.step_in_epoch, self.loss_sum, self.counted, self.seen = 0, 0.0, 0.0, 0

    def take_group(self) -> dict[str, float]:
        """Mean loss and, of models that count them, mean evaluations of the steps since the last call."""
        sums = {"loss": self.group_loss, **self.group_evaluations}
        means = {key: total / self.group_steps for key, total in sums.items()}
        self.group_loss, self.group_steps, self.group_evaluations = 0.0, 0, {}
        return means

    @staticmethod
    def restored(state: dict[str, Any]) -> Counters:
        """From a checkpoint; before there were tasks, `counted` was called `correct`."""
        return Counters(**{"counted" if key == "correct" else key: value for key, value in state.items()})


@dataclass(frozen=True)
class StepResult:
    """One training step: loss of the batch before the step, and how long the step took in seconds."""

    loss: float
    seconds: float


def train_step(optimizer: optim.Optimizer, evaluate: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One update; (loss, output) as `evaluate` finds them before it.

    OCNOpt's own `backward` adds the passes that factors of higher rank need, and searches of it that measure their
    steps call the closure again.
    """
    seen: list[tuple[Tensor, Tensor]] = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss, output = evaluate()
        if hasattr(optimizer, "backward"):
            optimizer.backward(loss, output)
        else:
            loss.backward()
        if not seen:
            seen.append((loss, output))
        return loss

    if needs_closure(optimizer):
        optimizer.step(closure)  # type: ignore[arg-type]
    else:
        closure()
        optimizer.step()
    return seen[0]


def clock_of(device: torch.device) -> Callable[[], float]:
    """Seconds of the processor where one thread of it does all the work, for neighbours do not count there."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def needs_closure(optimizer: optim.Optimizer) -> bool:
    """Whether its step evaluates the loss itself."""
    told = (getattr(part, "needs_closure", False) for part in (optimizer, getattr(optimizer, "search", None)))
    return isinstance(optimizer, optim.LBFGS) or any(told)


class Trainer:
    """Model, optimizer, rate schedule and batch order of one run, and the counters between them."""

    def __init__(self, config: RunConfig, problem: Problem, data: Dataset) -> None:
        self.config, self.problem, self.task = config, problem, data.task
        self.device = torch.device(config.device)
        self.data = data.to(self.device)
        torch.manual_seed(config.seed)
        self.model = problem.model(data.in_shape, data.outputs).to(self.device)  # drawn alike for every device
        self.reporting = list(reporting(self.model))
        self.optimizer = build(config.optimizer, self.model)
        self.steps_per_epoch = math.ceil(len(data.x_train) / config.batch_size)
        self.counters = Counters()
        steps = config.epochs * self.steps_per_epoch
        self.schedule = build_schedule(config.schedule, self.optimizer, steps, self.spent)
        # Its own generator: the batch order must not depend on what model and optimizer draw.
        self.order = torch.Generator().manual_seed(config.seed)
        self.order_at_epoch_start = self.order.get_state()

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or all seconds spent."""
        return self.counters.epoch >= self.config.epochs or self.spent() >= 1

    @property
    def epochs_done(self) -> float:
        """A whole number after whole epochs."""
        part = self.counters.step_in_epoch / self.steps_per_epoch
        return self.counters.epoch + part if part else self.counters.epoch

    @property
    def diverged(self) -> bool:
        """Whether the loss has not been finite for so long that going on is pointless."""
        return self.counters.nonfinite_in_a_row >= DIVERGED_AFTER

    def epoch(self) -> Iterator[StepResult]:
        """The remaining steps of the current epoch; may be left and entered again after any step."""
        self.order.set_state(self.order_at_epoch_start)
        order = torch.randperm(len(self.data.x_train), generator=self.order).to(self.device)
        batches = order.split(self.config.batch_size)
        for batch in batches[self.counters.step_in_epoch :]:
            if self.finished:
                return
            yield self._step(self._augmented(self.data.x_train[batch]), self.data.y_train[batch])
        self.order_at_epoch_start = self.order.get_state()
        self.counters.next_epoch()

    def _augmented(self, x: Tensor) -> Tensor:
        """Variants that depend on the seed and the number of the step alone: a resumed run draws the same."""
        if self.problem.augmentation is None:
            return x
        number = self.config.seed * 1_000_003 + self.counters.step
        return self.problem.augmentation.draw(x, torch.Generator().manual_seed(number))

    def _step(self, x: Tensor, y: Tensor) -> StepResult:
        now = clock_of(self.device)
        started = now()
        loss, counted = solving(lambda: self._update(x, y), _UNSOLVED)
        result = StepResult(loss, now() - started)
        self._count(result, counted, samples=len(x))
        self.schedule.step()  # after the count, which says how much of the time is gone
        return result

    def _update(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        loss, output = train_step(self.optimizer, lambda: self._evaluate(x, y))
        return loss.item(), self.task.counted(output.detach(), y)

    def _evaluate(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        output = self.model(x)
        return self.task.loss(output, y), output

    def _count(self, result: StepResult, counted: float, samples: int) -> None:
        counters = self.counters
        counters.step += 1
        counters.step_in_epoch += 1
        counters.loss_sum += result.loss * samples
        counters.counted += counted
        counters.seen += samples
        counters.group_loss += result.loss
        counters.group_steps += 1
        for key, count in self.evaluations().items():
            counters.group_evaluations[key] = counters.group_evaluations.get(key, 0) + count
        finite = math.isfinite(result.loss)
        counters.nonfinite += not finite
        counters.nonfinite_in_a_row = 0 if finite else counters.nonfinite_in_a_row + 1
        counters.step_seconds.append(result.seconds)

    def running_scores(self) -> Scores:
        """Scores of the epoch so far, each batch as it was before its step."""
        counters = self.counters
        return self.task.scores(counters.loss_sum / counters.seen, counters.counted / counters.seen)

    def scores(self) -> tuple[Scores, Scores]:
        """Scores on the training set and on the test set, on the first `eval_samples` of each."""
        samples, data = self.config.eval_samples, self.data
        if self.counters.step == 0:  # where the curves begin: a rough point, not worth a pass over everything
            samples = min(samples or _START_SAMPLES, _START_SAMPLES)
        train = self._scores(data.x_train[:samples], data.y_train[:samples])
        return train, self._scores(data.x_test[:samples], data.y_test[:samples])

    def _scores(self, x: Tensor, y: Tensor) -> Scores:
        return solving(lambda: evaluate(self.model, self.task, x, y), self.task.scores(*_UNSOLVED))

    def evaluations(self) -> dict[str, int]:
        """Evaluations of vector fields in the last step, where the model has any."""
        return evaluations(self.reporting)

    def spent(self) -> float:
        """The share of the seconds that is gone, where they are limited; 0 where they are not."""
        return self.seconds() / self.config.seconds if self.config.seconds else 0.0

    def seconds(self) -> float:
        """Time spent in training steps so far."""
        return sum(self.counters.step_seconds)

    def seconds_per_step(self) -> float | None:
        """Median over the steps so far."""
        return median(self.counters.step_seconds) if self.counters.step_seconds else None

    def diagnostics(self) -> dict[str, float]:
        """The optimizer's own numbers, where it has any."""
        return dict(self.optimizer.diagnostics()) if hasattr(self.optimizer, "diagnostics") else {}

    def decisions(self) -> dict[str, Any]:
        """Alignments that the optimizer's bandits have chosen, where it plays a game."""
        return dict(self.optimizer.decisions()) if hasattr(self.optimizer, "decisions") else {}

    def state_dict(self) -> dict[str, Any]:
        """All that a later process needs to go on bit for bit."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "order_at_epoch_start": self.order_at_epoch_start,
            "torch_rng": torch.get_rng_state(),
            "counters": asdict(self.counters),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Puts the run back where `state_dict` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.order_at_epoch_start = state["order_at_epoch_start"]
        self.counters = Counters.restored(state["counters"])
        torch.set_rng_state(state["torch_rng"])
