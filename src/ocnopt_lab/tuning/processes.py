"""Work for several processes: the references, the trials, and the checks of what was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ocnopt_lab.tuning.cases import Case
from ocnopt_lab.tuning.search import Candidate, Search


@dataclass(frozen=True)
class Reference:
    """Adam at all its rates on a case."""

    search: Search
    case: Case
    lr: float

    def do(self) -> None:
        self.search.adam(self.lr, self.case)


@dataclass(frozen=True)
class Check:
    """A candidate on a case."""

    search: Search
    case: Case
    candidate: Candidate

    def do(self) -> None:
        self.search.candidate(self.candidate, self.case)


@dataclass(frozen=True)
class Trials:
    """A share of the search."""

    search: Search
    worker: int

    def do(self) -> None:
        self.search.work(self.worker)


Task = Reference | Check | Trials


def references(search: Search, cases: Sequence[Case]) -> list[Task]:
    return [Reference(search, case, lr) for case in cases for lr in search.settings.lrs]


def do(task: Task) -> None:
    """On one thread."""
    torch.set_num_threads(1)
    task.do()


class Workers:
    """So many processes, started once; a single one is this process. The first error of a task ends the work."""

    def __init__(self, jobs: int) -> None:
        self.pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) if jobs > 1 else None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def all_of(self, console: Console, words: str, tasks: Sequence[Task]) -> None:
        """Does the tasks, with a bar."""
        with _progress(console) as bar:
            line = bar.add_task(words, total=len(tasks))
            for _ in self.done(tasks):
                bar.advance(line)

    def done(self, tasks: Sequence[Task]) -> Iterator[None]:
        """Turns as tasks are done."""
        if self.pool is None:
            yield from map(do, tasks)
        else:
            yield from (future.result() for future in as_completed([self.pool.submit(do, task) for task in tasks]))


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)
