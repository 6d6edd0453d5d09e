"""A run from its start or its checkpoint to its summary, with everything it writes on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ocnopt_lab import data, problems
from ocnopt_lab.errors import INTERRUPTED, LabError
from ocnopt_lab.runs import alignments, checkpoint, curves, environment, folder
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.device import require_device
from ocnopt_lab.runs.display import Display
from ocnopt_lab.runs.folder import Metrics, Row
from ocnopt_lab.runs.interrupt import Interrupt
from ocnopt_lab.runs.memory import memory_on
from ocnopt_lab.runs.solving import solving
from ocnopt_lab.runs.trainer import Trainer

_GROUPS, _SMALLEST_GROUP = 20, 10  # rows of step metrics per epoch, and the fewest steps a row averages


Load = Callable[..., data.Dataset]
"""As `data.load`."""


def start(config: RunConfig, path: Path, load: Load = data.load) -> Session:
    """A new run in the folder `path`."""
    trainer = build_trainer(config, load)
    folder.create(path, config)
    return Session(path, trainer, rows=[])


def resume(path: Path, console: Console, load: Load = data.load) -> Session:
    """The run in `path`, where its newest readable checkpoint left it."""
    config = folder.read_config(path)
    state, warning = checkpoint.load(path)
    if warning:
        console.print(warning, style="yellow", soft_wrap=True)
    return Session(path, restored(config, path, state, load), rows=list(state["metrics"]))


def restored(config: RunConfig, path: Path, state: Mapping[str, Any], load: Load = data.load) -> Trainer:
    """The trainer of `config` where `state`, a checkpoint of the folder `path`, was taken."""
    trainer = build_trainer(config, load)
    try:
        trainer.load_state_dict(dict(state))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise LabError(f"The checkpoint in {path} does not belong to its {folder.CONFIG}: {error}") from error
    return trainer


def build_trainer(config: RunConfig, load: Load = data.load) -> Trainer:
    """Data, model and optimizer of `config`, ready for the first step."""
    require_device(config.device)  # not in the configuration, which is read where the device is not
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    problem = problems.get(config.problem)
    file, data_dir = (Path(path) if path else None for path in (config.data, config.data_dir))
    dataset = load(problem.data, file, data_dir, config.split, problem.recipe)
    return Trainer(config, problem, dataset.first(config.train_samples))


class Session:
    """One run in progress: the trainer and the files of its folder."""

    def __init__(self, path: Path, trainer: Trainer, rows: list[Row]) -> None:
        self.path, self.trainer = path, trainer
        self.metrics = Metrics(path / folder.METRICS, rows)
        self.memory = memory_on(trainer.device)
        self.group = max(_SMALLEST_GROUP, trainer.steps_per_epoch // _GROUPS)

    def run(self, console: Console) -> Row:
        """Trains to the end, draws, and returns the summary. Ctrl-C ends it after a step, with a checkpoint."""
        summary = self.train(console)
        self.draw()
        return summary

    def train(self, console: Console) -> Row:
        """The same without pictures."""
        display = Display(console, self.trainer)
        try:
            with Interrupt() as interrupt, display:
                self._train(interrupt, display)
            summary = self._summary()
            folder.write_json(self.path / folder.SUMMARY, summary)
            return summary
        except LabError as error:
            raise LabError(f"{error}{self._kept()}", error.code) from error

    def _kept(self) -> str:
        newest = checkpoint.newest(self.path)
        return f" The last checkpoint is kept: {newest}." if newest else ""

    def _train(self, interrupt: Interrupt, display: Display) -> None:
        if not self.metrics.rows:
            self._score(display)
        while not self.trainer.finished and not self.trainer.diverged:
            self._steps(interrupt, display)
            self._score(display)
            self._save()
            self._stop_if(interrupt)

    def _steps(self, interrupt: Interrupt, display: Display) -> None:
        """The rest of the current epoch."""
        self.memory.resume()
        for _ in self.trainer.epoch():
            display.step(self.trainer.counters)
            if self.trainer.counters.step % self.group == 0:
                self._log_group()
            if interrupt.seen:
                self._save()
                self._stop_if(interrupt)
            if self.trainer.diverged:
                break
        self.memory.pause()

    def _log_group(self) -> None:
        trainer = self.trainer
        step = trainer.counters.step
        self.metrics.append(
            {
                "kind": "steps",
                "step": step,
                "epoch": step / trainer.steps_per_epoch,
                **trainer.counters.take_group(),
                "lr": float(trainer.optimizer.param_groups[0]["lr"]),
                "seconds": trainer.seconds(),
                "optimizer": trainer.diagnostics(),
            }
        )

    def _score(self, display: Display) -> None:
        train, test = self.trainer.scores()
        row = {
            "kind": "epoch",
            "epoch": self.trainer.epochs_done,
            "step": self.trainer.counters.step,
            **{f"train_{key}": value for key, value in train.items()},
            **{f"test_{key}": value for key, value in test.items()},
            **self._cost(),
            **self._gains(),
        }
        self.metrics.append(row)
        display.epoch(row)

    def _gains(self) -> Row:
        """Gains of the feedback policies, where they were asked for; the run goes on as if nobody had looked."""
        samples = self.trainer.config.gains
        if samples is None or self.trainer.diverged:
            return {}
        from ocnopt_lab.policies import history  # scipy: not for those who do not look

        return {"gains": history.gains_of(history.recorded(self.trainer, samples))}

    def _cost(self) -> Row:
        return {
            "seconds": self.trainer.seconds(),
            "seconds_per_step": self.trainer.seconds_per_step(),
            "peak_memory_mb": self.memory.peak,
            "memory_growth_mb": self.memory.growth,
        }

    def _save(self) -> None:
        state: dict[str, Any] = {**self.trainer.state_dict(), "metrics": self.metrics.rows}
        checkpoint.save(self.path, state)

    def _stop_if(self, interrupt: Interrupt) -> None:
        if interrupt.seen:
            step = self.trainer.counters.step
            raise LabError(f"Interrupted after step {step}; `ocnopt train --resume {self.path}` goes on.", INTERRUPTED)

    def draw(self) -> None:
        """The pictures of a run that has ended."""
        config = self.trainer.config
        curve = curves.Curve(config.optimizer.label, config.optimizer.label, self.metrics.epochs())
        title = f"{config.problem}, seed {config.seed}"
        curves.draw(self.path / folder.CURVES, title, [curve], self.trainer.task)
        self._draw_alignments(title)
        for picture in self.trainer.problem.pictures:
            solving(partial(picture.draw, self.path, title, self.trainer.model), None)

    def _draw_alignments(self, title: str) -> None:
        """What the bandits of a game have chosen, where there were any."""
        decisions = self.trainer.decisions()
        if any(decisions.values()):
            folder.write_json(self.path / folder.ALIGNMENTS, decisions)
            alignments.draw(self.path / folder.ALIGNMENTS_PICTURE, title, decisions)

    def _summary(self) -> Row:
        config, counters = self.trainer.config, self.trainer.counters
        last = {key: value for key, value in self.metrics.epochs()[-1].items() if key != "kind"}
        return {
            "status": "diverged" if self.trainer.diverged else "finished",
            "problem": config.problem,
            "optimizer": config.optimizer.label,
            "seed": config.seed,
            **last,
            "nonfinite_steps": counters.nonfinite,
            "parameters": sum(p.numel() for p in self.trainer.model.parameters()),
            "environment": environment.describe(self.trainer.device),
        }
