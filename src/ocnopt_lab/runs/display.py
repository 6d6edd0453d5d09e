"""What a running training shows: a live bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ocnopt_lab.runs.folder import Row
from ocnopt_lab.runs.trainer import Counters

_LINES = 5  # of a run whose output is not a terminal


class Display:
    """Epoch, step, loss, accuracy and time left of one run."""

    def __init__(self, console: Console, label: str, epochs: int, steps_per_epoch: int) -> None:
        self.console, self.label = console, label
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
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
        self.task = self.bar.add_task(label, total=epochs * steps_per_epoch, epoch=f"1/{epochs}", scores="")

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def step(self, counters: Counters) -> None:
        """After a step: running loss and accuracy of the epoch so far."""
        loss, accuracy = counters.loss_sum / counters.seen, counters.correct / counters.seen
        epoch = f"{counters.epoch + 1}/{self.epochs}"
        self.bar.update(self.task, completed=counters.step, epoch=epoch, scores=f"loss {loss:.4f} acc {accuracy:.1%}")

    def epoch(self, row: Row) -> None:
        """After an epoch: the scores of its row of metrics."""
        scores = f"loss {row['train_loss']:.4f} test {row['test_accuracy']:.1%}"
        self.bar.update(self.task, scores=scores)
        every = max(1, self.epochs // _LINES)
        if not self.console.is_terminal and row["epoch"] % every == 0:
            self.console.print(f"{self.label}: epoch {row['epoch']}/{self.epochs}, {scores}, {row['seconds']:.1f} s")
