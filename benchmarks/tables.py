"""Results of many runs as tables and sentences, all of them computed from the summaries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from statistics import median
from typing import Any

from ocnopt_lab.studies.summaries import Result, at_once, by_method, cell, heading, machines, many, number
from ocnopt_lab.tasks import Classification, Measure

OURS = "ocnopt"
_RULE = "|---|---|---:|---|---:|---:|---:|---:|"


def page(results: Sequence[Result], seeds: int, command: str, jobs: int) -> str:
    """Tables, verdicts and circumstances as Markdown."""
    blocks = [f"```bash\n{command}\n```", circumstances(results, jobs)]
    for problem in dict.fromkeys(result.problem for result in results):
        blocks += [f"**{problem}**", _table(by_method(results, problem)), _verdict(results, problem, seeds)]
    return "\n\n".join(blocks) + "\n"


def _table(methods: dict[str, list[Result]]) -> str:
    measure = next(iter(methods.values()))[0].measure
    header = f"| method | training loss | median | {heading(measure)} | median | seconds | ms/step | diverged |"
    return "\n".join([header, _RULE, *(_line(name, runs) for name, runs in methods.items())])


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


@dataclass(frozen=True)
class Verdict:
    """Medians over the seeds: OCNOpt's against the lowest loss and the best test score of any of Adam's rates."""

    problem: str
    loss: float
    rival_loss: float
    rival: str
    score: float
    rival_score: float
    measure: Measure = Classification.measure

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
        f"Medians over {many(seeds, 'seed')}: OCNOpt's training loss is **{below}** that of the best Adam "
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


def to_json(results: Sequence[Result], seeds: int, command: str) -> dict[str, Any]:
    """All numbers and the verdicts."""
    names = dict.fromkeys(result.problem for result in results)
    found = [answer for name in names if (answer := verdict(results, name, seeds))]
    told = [{**_plain(x), "loss_below": x.loss_below, "score_not_worse": x.score_not_worse} for x in found]
    return {"command": command, "runs": [result.to_dict() for result in results], "verdicts": told}


def _plain(record: Verdict) -> dict[str, Any]:
    """For JSON; the measure by its words."""
    return {**asdict(record), "measure": record.measure.label}
