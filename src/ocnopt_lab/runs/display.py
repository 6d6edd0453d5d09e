"""What a running training shows: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ocnopt_lab.runs.folder import Row
from ocnopt_lab.runs.trainer import Counters, Trainer

_LINES = 5  # of a run whose output is not a terminal


class Display:
    """Epoch, step, scores and time left of one run."""

    def __init__(self, console: Console, trainer: Trainer) -> None:
        self.console, self.trainer, self.measure = console, trainer, trainer.task.measure
        self.label, self.epochs = trainer.config.optimizer.label, trainer.config.epochs
        self.bar = Progress(
            TextColumn("[bold]{task.description}"),
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[scores]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            refresh_per_second=5,
            expand=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(
            self.label, total=self.epochs * trainer.steps_per_epoch, epoch=f"1/{self.epochs}", scores=""
        )

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, counters: Counters) -> None:
        """After a step: running scores of the epoch so far."""
        scores = " ".join(f"{key} {value:.4g}" for key, value in self.trainer.running_scores().items())
        epoch = f"{counters.epoch + 1}/{self.epochs}"
        self.bar.update(self.task, completed=counters.step, epoch=epoch, scores=scores)

    def epoch(self, row: Row) -> None:
        """After an epoch: the scores of its row of metrics."""
        scores = f"loss {row['train_loss']:.4g}, {self.measure.label} {self.measure.text(row[self.measure.column])}"
        self.bar.update(self.task, scores=scores)
        every = max(1, self.epochs // _LINES)
        if not self.console.is_terminal and row["epoch"] % every == 0:
            self.console.print(
                f"{self.label}: epoch {row['epoch']:.4g}/{self.epochs}, {scores}, {row['seconds']:.1f} s"
            )
