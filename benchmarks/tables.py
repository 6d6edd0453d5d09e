"""Results of many runs as tables and sentences, all of them computed from the summaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from runner import Run

OURS = "ocnopt"
_HEADER = "| method | training loss | median | test accuracy, % | median | seconds | ms/step | diverged |"
_RULE = "|---|---|---:|---|---:|---:|---:|---:|"


@dataclass(frozen=True)
class Result:
    """What the tables need of one run; the loss of a diverged run is infinite."""

    problem: str
    method: str
    seed: int
    train_loss: float
    test_accuracy: float
    seconds: float
    seconds_per_step: float
    diverged: bool
    environment: dict[str, Any]


def results_of(runs: Sequence[Run]) -> list[Result]:
    """Of the runs that are complete."""
    pairs = [(run, summary) for run in runs if (summary := run.summary()) is not None]
    return [_result(run, summary) for run, summary in pairs]


def _result(run: Run, summary: dict[str, Any]) -> Result:
    loss = summary["train_loss"]
    diverged = summary["status"] == "diverged" or loss is None
    return Result(
        problem=run.problem,
        method=run.method,
        seed=run.seed,
        train_loss=math.inf if diverged else loss,
        test_accuracy=summary["test_accuracy"],
        seconds=summary["seconds"],
        seconds_per_step=summary["seconds_per_step"],
        diverged=diverged,
        environment=summary["environment"],
    )


def page(results: Sequence[Result], seeds: int, command: str, jobs: int) -> str:
    """Tables, verdicts and circumstances as Markdown."""
    blocks = [f"```bash\n{command}\n```", circumstances(results, jobs)]
    for problem in dict.fromkeys(result.problem for result in results):
        blocks += [f"**{problem}**", _table(by_method(results, problem)), _verdict(results, problem, seeds)]
    return "\n\n".join(blocks) + "\n"


def by_method(results: Sequence[Result], problem: str) -> dict[str, list[Result]]:
    """The runs of one problem, seeds in order."""
    mine = [result for result in results if result.problem == problem]
    names = dict.fromkeys(result.method for result in mine)
    return {name: sorted((x for x in mine if x.method == name), key=lambda x: x.seed) for name in names}


def _table(methods: dict[str, list[Result]]) -> str:
    return "\n".join([_HEADER, _RULE, *(_line(name, runs) for name, runs in methods.items())])


def _line(name: str, runs: list[Result]) -> str:
    losses = [run.train_loss for run in runs]
    accuracies = [100 * run.test_accuracy for run in runs]
    cells = [
        name,
        " ".join(map(number, losses)),
        number(median(losses)),
        " ".join(f"{x:.2f}" for x in accuracies),
        f"{median(accuracies):.2f}",
        f"{median(run.seconds for run in runs):.0f}",
        f"{1000 * median(run.seconds_per_step for run in runs):.2f}",
        f"{sum(run.diverged for run in runs)}",
    ]
    return "| " + " | ".join(cells) + " |"


def number(loss: float) -> str:
    return f"{loss:.4f}" if math.isfinite(loss) else "∞"


@dataclass(frozen=True)
class Verdict:
    """Medians over the seeds: OCNOpt's against the lowest loss and the highest accuracy of any of Adam's rates."""

    problem: str
    loss: float
    rival_loss: float
    rival: str
    accuracy: float
    rival_accuracy: float

    @property
    def loss_below(self) -> bool:
        return self.loss < self.rival_loss

    @property
    def accuracy_not_worse(self) -> bool:
        return self.accuracy >= self.rival_accuracy


def verdict(results: Sequence[Result], problem: str, seeds: int) -> Verdict | None:
    """None as long as a run is missing."""
    methods = by_method(results, problem)
    if OURS not in methods or len(methods) < 2 or any(len(runs) < seeds for runs in methods.values()):
        return None
    losses = {name: median(run.train_loss for run in runs) for name, runs in methods.items()}
    accuracies = {name: median(run.test_accuracy for run in runs) for name, runs in methods.items()}
    rivals = [name for name in methods if name != OURS]
    best = min(rivals, key=losses.__getitem__)
    highest = max(accuracies[name] for name in rivals)
    return Verdict(problem, losses[OURS], losses[best], best, accuracies[OURS], highest)


def _verdict(results: Sequence[Result], problem: str, seeds: int) -> str:
    found = verdict(results, problem, seeds)
    if found is None:
        return "Not all runs are there yet."
    below = "below" if found.loss_below else "not below"
    worse = "not worse" if found.accuracy_not_worse else "worse"
    return (
        f"Medians over {_many(seeds, 'seed')}: OCNOpt's training loss is **{below}** that of the best Adam "
        f"({number(found.loss)} against {number(found.rival_loss)}, {found.rival}), its test accuracy is **{worse}** "
        f"than the highest of any of Adam's rates ({found.accuracy:.2%} against {found.rival_accuracy:.2%})."
    )


def circumstances(results: Sequence[Result], jobs: int) -> str:
    """What was measured how, and on which machine."""
    note = (
        "Training loss and test accuracy are taken over the whole sets after the last epoch, the seeds in order. "
        "Seconds are those spent in training steps, medians over the seeds, "
        f"{at_once(jobs)}. All rates fall linearly to zero."
    )
    return f"{note}\n\n{machines(results)}"


def at_once(jobs: int) -> str:
    return f"{jobs} runs at a time" if jobs > 1 else "one run at a time"


def machines(results: Sequence[Result]) -> str:
    """Hardware and versions; one line per distinct machine."""
    return "\n\n".join(dict.fromkeys(_machine(result.environment) for result in results))


def _machine(env: dict[str, Any]) -> str:
    versions = f"Python {env['python']}, torch {env['torch']}, ocnopt {env['ocnopt']}"
    system = env["system"].split("-")[0]
    return f"{env['cpu']}, {env['cores']} cores, {_many(env['threads'], 'thread')} per run, {system}; {versions}."


def _many(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def to_json(results: Sequence[Result], seeds: int, command: str) -> dict[str, Any]:
    """All numbers and the verdicts."""
    names = dict.fromkeys(result.problem for result in results)
    found = [answer for name in names if (answer := verdict(results, name, seeds))]
    told = [{**asdict(x), "loss_below": x.loss_below, "accuracy_not_worse": x.accuracy_not_worse} for x in found]
    return {"command": command, "runs": [asdict(result) for result in results], "verdicts": told}
