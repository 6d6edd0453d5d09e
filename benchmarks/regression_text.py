"""What runs on equal seconds have shown, as tables: every number is computed from the marks of the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, median, stdev
from typing import Any

from timed_runs import machine

from ocnopt_lab import problems
from ocnopt_lab.timed import Mark

Curves = dict[str, list[list[Mark]]]
"""Method → marks of every seed; the first method is the one that is compared with the rivals."""

OURS = "ocnopt"


@dataclass(frozen=True)
class Verdict:
    """OCNOpt's first method against the rival with the lowest median training loss; medians over the seeds.

    ratio: of the training losses.  share: of the rival's time, until its final training loss was reached; infinite
    where it was not.  error, best_error: on test samples in the end, ours and the lowest of any rival's medians.
    stopped, best_stopped: the same where the validation loss was lowest, means over the seeds.
    spread: standard error of their difference, seed by seed.
    """

    problem: str
    ours: str
    rival: str
    loss: float
    rival_loss: float
    share: float
    error: float
    best_error: float
    stopped: float
    best_stopped: float
    spread: float

    @property
    def ratio(self) -> float:
        return self.loss / self.rival_loss if self.rival_loss else math.inf

    @property
    def stops_as_well(self) -> bool:
        """Whether stopping early is no worse than the best rival's, by more than one standard error."""
        return self.stopped <= self.best_stopped + self.spread


def verdict(problem: str, curves: Curves) -> Verdict:
    ours, rivals = next(iter(curves)), [name for name in curves if not name.startswith(OURS)]
    rival = min(rivals, key=lambda name: final_loss(curves[name]))
    shares = [share_of(own, other) for own, other in zip(curves[ours], curves[rival], strict=True)]
    stopped = stopped_errors(curves[ours])
    best = min((stopped_errors(curves[name]) for name in rivals), key=mean)
    return Verdict(
        problem,
        ours,
        rival,
        final_loss(curves[ours]),
        final_loss(curves[rival]),
        median(shares),
        final_error(curves[ours]),
        min(final_error(curves[name]) for name in rivals),
        mean(stopped),
        mean(best),
        standard_error([a - b for a, b in zip(stopped, best, strict=True)]),
    )


def final_loss(runs: Sequence[Sequence[Mark]]) -> float:
    return median(number(marks[-1].loss) for marks in runs)


def final_error(runs: Sequence[Sequence[Mark]]) -> float:
    return median(number(marks[-1].error) for marks in runs)


def stopped_errors(runs: Sequence[Sequence[Mark]]) -> list[float]:
    """Of every seed, where training would have been stopped: at the lowest validation loss."""
    return [number(min(marks, key=lambda mark: number(mark.validation)).error) for marks in runs]


def standard_error(values: Sequence[float]) -> float:
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0


def number(x: float) -> float:
    """What is not a number has failed."""
    return math.inf if math.isnan(x) else x


def share_of(own: Sequence[Mark], rival: Sequence[Mark]) -> float:
    """Seconds to the rival's final training loss over those that the rival took."""
    goal = rival[-1].loss
    return reached(own, goal) / reached(rival, goal)


def reached(marks: Sequence[Mark], loss: float) -> float:
    """Seconds until a training loss was seen that is no larger; infinite if never."""
    return next((mark.seconds for mark in marks if mark.loss <= loss), math.inf)


def text_of(found: dict[str, Curves], command: str, seconds: float, environment: dict[str, Any]) -> str:
    seeds = len(next(iter(next(iter(found.values())).values())))
    head = (
        f"Medians over {seeds} seeds, every method {seconds:g} s of the processor on one thread, one run at a time; "
        "all methods have the same split, the same initial weights and a tenth of the training samples kept for "
        "validation. The rival is the one with the lowest training loss. Time: until the rival's final training loss "
        "is seen, as a share of the time the rival took for it. Stopped: test error where the validation loss was "
        "lowest, means over the seeds, against the lowest of any rival, with the standard error of the difference."
    )
    verdicts = [verdict(problem, curves) for problem, curves in found.items()]
    blocks = [
        f"```bash\n{command}\n```",
        head,
        machine(environment),
        short(verdicts),
        *map(summary, families(verdicts).items()),
    ]
    blocks += [f"**{problem}**\n\n{long(problem, curves)}" for problem, curves in found.items()]
    return "\n\n".join(blocks) + "\n"


def short(verdicts: Sequence[Verdict]) -> str:
    columns = ["problem", "method", "training loss", "rival", "its loss", "ratio", "time", "test error", "best rival"]
    lines = [row([*columns, "stopped", "best rival"]), "|---" * 11 + "|"]
    for v in verdicts:
        losses = [v.ours, f"{v.loss:.2e}", v.rival, f"{v.rival_loss:.2e}", f"{v.ratio:.2g}", f"{v.share:.2g}"]
        stopped = [f"{v.stopped:.4g}", f"{v.best_stopped:.4g} ± {v.spread:.2g}"]
        lines.append(row([v.problem, *losses, f"{v.error:.4g}", f"{v.best_error:.4g}", *stopped]))
    return "\n".join(lines)


def families(verdicts: Sequence[Verdict]) -> dict[str, list[Verdict]]:
    """Noise-free functions, noisy ones, UCI sets, autoencoders."""
    kinds: dict[str, list[Verdict]] = {}
    for v in verdicts:
        noisy = "-noisy" if v.problem.endswith("-noisy") else ""
        kinds.setdefault(f"{v.problem.split('-')[0]}-*{noisy}", []).append(v)
    return kinds


def summary(family: tuple[str, list[Verdict]]) -> str:
    name, verdicts = family

    def count(met: Sequence[bool]) -> str:
        return f"{sum(met)} of {len(met)}"

    return (
        f"**{name}**: training loss at most 1/100 of the rival's on {count([v.ratio <= 0.01 for v in verdicts])}, "
        f"lower on {count([v.ratio < 1 for v in verdicts])}; the rival's loss reached in a quarter of its time on "
        f"{count([v.share <= 0.25 for v in verdicts])}, in a third on {count([v.share <= 1 / 3 for v in verdicts])}; "
        f"test error in the end not above the best rival's on {count([v.error <= v.best_error for v in verdicts])}; "
        f"stopped early, within one standard error of it on {count([v.stops_as_well for v in verdicts])}."
    )


def long(problem: str, curves: Curves) -> str:
    lines = [row(["method", "training loss", problems.get(problem).task.measure.label, "stopped", "steps", "seconds"])]
    lines.append("|---" * 6 + "|")
    for name, runs in curves.items():
        steps, seconds = (median(getattr(marks[-1], key) for marks in runs) for key in ("steps", "seconds"))
        losses = sorted(number(marks[-1].loss) for marks in runs)
        span = f"{median(losses):.2e} ({losses[0]:.1e} to {losses[-1]:.1e})"
        errors = [f"{final_error(runs):.4g}", f"{mean(stopped_errors(runs)):.4g}"]
        lines.append(row([name, span, *errors, f"{steps:.0f}", f"{seconds:.1f}"]))
    return "\n".join(lines)


def row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def to_json(found: dict[str, Curves], command: str) -> dict[str, Any]:
    """All numbers and the verdicts."""
    verdicts = [verdict(problem, curves) for problem, curves in found.items()]
    runs = {
        problem: {name: [[asdict(mark) for mark in marks] for marks in runs] for name, runs in curves.items()}
        for problem, curves in found.items()
    }
    return {"command": command, "verdicts": [{**asdict(v), "ratio": v.ratio} for v in verdicts], "runs": runs}
