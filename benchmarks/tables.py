"""Results of many runs as tables and sentences, all of them computed from the summaries."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from statistics import median
from typing import Any

from runner import Run

from ocnopt_lab import problems
from ocnopt_lab.tasks import Classification, Measure

OURS = "ocnopt"
ACCURACY = Classification.measure
_RULE = "|---|---|---:|---|---:|---:|---:|---:|"


@dataclass(frozen=True)
class Result:
    """What the tables need of one run; the loss of a diverged run is infinite. `test_score` is that of the measure."""

    problem: str
    method: str
    seed: int
    train_loss: float
    test_score: float
    seconds: float
    seconds_per_step: float
    diverged: bool
    environment: dict[str, Any]
    measure: Measure = ACCURACY


def results_of(runs: Sequence[Run]) -> list[Result]:
    """Of the runs that are complete."""
    pairs = [(run, summary) for run in runs if (summary := run.summary()) is not None]
    return [_result(run, summary) for run, summary in pairs]


def _result(run: Run, summary: dict[str, Any]) -> Result:
    loss = summary["train_loss"]
    diverged = summary["status"] == "diverged" or loss is None
    measure = problems.get(run.problem).task.measure
    score = summary[measure.column]
    return Result(
        problem=run.problem,
        method=run.method,
        seed=run.seed,
        train_loss=math.inf if diverged else loss,
        test_score=measure.worst if score is None else score,
        seconds=summary["seconds"],
        seconds_per_step=summary["seconds_per_step"],
        diverged=diverged,
        environment=summary["environment"],
        measure=measure,
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
    measure = next(iter(methods.values()))[0].measure
    header = f"| method | training loss | median | {heading(measure)} | median | seconds | ms/step | diverged |"
    return "\n".join([header, _RULE, *(_line(name, runs) for name, runs in methods.items())])


def heading(measure: Measure) -> str:
    """The measure above a column, with the unit that `cell` leaves out."""
    return f"{measure.label}, %" if measure.format.endswith("%") else measure.label


def cell(measure: Measure, value: float) -> str:
    """A score without its unit."""
    return measure.text(value).removesuffix("%").replace("not finite", "∞")


def _line(name: str, runs: list[Result]) -> str:
    losses = [run.train_loss for run in runs]
    scores, measure = [run.test_score for run in runs], runs[0].measure
    cells = [
        name,
        " ".join(map(number, losses)),
        number(median(losses)),
        " ".join(cell(measure, score) for score in scores),
        cell(measure, median(scores)),
        f"{median(run.seconds for run in runs):.0f}",
        f"{1000 * median(run.seconds_per_step for run in runs):.2f}",
        f"{sum(run.diverged for run in runs)}",
    ]
    return "| " + " | ".join(cells) + " |"


def number(loss: float) -> str:
    return f"{loss:.4f}" if math.isfinite(loss) else "∞"


@dataclass(frozen=True)
class Verdict:
    """Medians over the seeds: OCNOpt's against the lowest loss and the best test score of any of Adam's rates."""

    problem: str
    loss: float
    rival_loss: float
    rival: str
    score: float
    rival_score: float
    measure: Measure = ACCURACY

    @property
    def loss_below(self) -> bool:
        return self.loss < self.rival_loss

    @property
    def score_not_worse(self) -> bool:
        return self.measure.best(self.score, self.rival_score) == self.score


def verdict(results: Sequence[Result], problem: str, seeds: int) -> Verdict | None:
    """None as long as a run is missing."""
    methods = by_method(results, problem)
    if OURS not in methods or len(methods) < 2 or any(len(runs) < seeds for runs in methods.values()):
        return None
    losses = {name: median(run.train_loss for run in runs) for name, runs in methods.items()}
    scores = {name: median(run.test_score for run in runs) for name, runs in methods.items()}
    measure = methods[OURS][0].measure
    rivals = [name for name in methods if name != OURS]
    best = min(rivals, key=losses.__getitem__)
    rival_score = reduce(measure.best, (scores[name] for name in rivals))
    return Verdict(problem, losses[OURS], losses[best], best, scores[OURS], rival_score, measure)


def _verdict(results: Sequence[Result], problem: str, seeds: int) -> str:
    found = verdict(results, problem, seeds)
    if found is None:
        return "Not all runs are there yet."
    below = "below" if found.loss_below else "not below"
    worse, measure = "not worse" if found.score_not_worse else "worse", found.measure
    best = "highest" if measure.best is max else "lowest"
    return (
        f"Medians over {_many(seeds, 'seed')}: OCNOpt's training loss is **{below}** that of the best Adam "
        f"({number(found.loss)} against {number(found.rival_loss)}, {found.rival}), its {measure.label} is "
        f"**{worse}** than the {best} of any of Adam's rates ({measure.text(found.score)} against "
        f"{measure.text(found.rival_score)})."
    )


def circumstances(results: Sequence[Result], jobs: int) -> str:
    """What was measured how, and on which machine."""
    note = (
        "Training losses and test scores are taken over the whole sets after the last epoch, the seeds in order. "
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
    told = [{**_plain(x), "loss_below": x.loss_below, "score_not_worse": x.score_not_worse} for x in found]
    return {"command": command, "runs": [_plain(result) for result in results], "verdicts": told}


def _plain(record: Result | Verdict) -> dict[str, Any]:
    """For JSON; the measure by its words."""
    return {**asdict(record), "measure": record.measure.label}
