"""The search by optuna: trials of several processes in one journal, each measured against the best Adam, paired."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from ocnopt_lab.errors import writing
from ocnopt_lab.runs.environment import describe
from ocnopt_lab.runs.folder import write_json
from ocnopt_lab.timed.methods import Method, adam, ours
from ocnopt_lab.tuning import space
from ocnopt_lab.tuning.cases import Case, Outcome, Settings, outcome

CLIP = 8.0
"""Of a logarithm of losses, what a run that diverged counts as: a factor of 3,000."""
NAME = "defaults"
DEFAULT = 0
"""The number of the trial with today's defaults, the first."""


@dataclass(frozen=True)
class Candidate:
    """Values that are looked at beyond the search, under a name for files and words for tables."""

    name: str
    words: str
    values: dict[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Search:
    """What all processes of a search know.

    cases: of the search, in the order in which a trial goes through them.  until: seconds since the epoch, when no
    trial begins any more.  trials: how many there shall be.
    """

    folder: Path
    cases: tuple[Case, ...]
    settings: Settings = field(default_factory=Settings)
    until: float = math.inf
    trials: int = 100
    seed: int = 0

    # runs, each in a file of its own

    def measured(self, name: str, method: Method, case: Case) -> Outcome:
        """One run; its file is written in the end, and then it is never done again."""
        path = self.folder / "runs" / f"{name}-{case.name}.json"
        if path.exists():
            return read(path)
        found = outcome(case, method, self.settings)
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**asdict(found), "environment": describe()})
        return found

    def adams(self, case: Case) -> list[Outcome]:
        """At every rate."""
        return [self.adam(lr, case) for lr in self.settings.lrs]

    def adam(self, lr: float, case: Case) -> Outcome:
        return self.measured(f"adam-{lr:g}", adam(lr), case)

    def reference(self, case: Case) -> float:
        """The lowest training loss of Adam."""
        return min(found.loss for found in self.adams(case))

    def candidate(self, one: Candidate, case: Case) -> Outcome:
        """Measured on a case that may be another than those of the search."""
        return self.measured(one.name, ours(**space.options(one.values)), case)

    # trials

    def study(self, worker: int = 0) -> optuna.Study:
        """The one in the journal, made where there is none; each process draws from a stream of its own."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        seed = 1000 * self.seed + worker
        sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, n_startup_trials=20, seed=seed)
        storage = JournalStorage(JournalFileBackend(f"{self.folder / 'journal.log'}"))
        study = optuna.create_study(storage=storage, sampler=sampler, study_name=NAME, load_if_exists=True)
        if worker == 0 and not study.get_trials(deepcopy=False):
            study.enqueue_trial(space.defaults())
        return study

    def objective(self, trial: optuna.Trial) -> float:
        """Mean over the cases of the logarithm of the training loss over that of the best Adam."""
        method = ours(**space.options(space.suggested(trial)))
        found = []
        for case in self.cases:
            found.append(gain(outcome(case, method, self.settings).loss, self.reference(case)))
            trial.set_user_attr(case.name, found[-1])
        return mean(found)

    def work(self, worker: int) -> None:
        """Trial after trial, until there are enough or the time is over."""
        torch.set_num_threads(1)
        study = self.study(worker)
        while time.time() < self.until and len(finished(study)) < self.trials:
            study.optimize(self.objective, n_trials=1)


def finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))


def best(study: optuna.Study, count: int) -> list[FrozenTrial]:
    """Those of the lowest values, today's defaults not among them."""
    return sorted((t for t in finished(study) if t.number != DEFAULT), key=lambda t: t.value or 0.0)[:count]


def chosen(study: optuna.Study, count: int) -> list[Candidate]:
    """Today's defaults, and the best trials."""
    top = [Candidate(f"trial-{t.number}", f"trial {t.number}", t.params) for t in best(study, count)]
    return [Candidate("default", "today's defaults", space.defaults()), *top]


def periods() -> list[Candidate]:
    """Today's defaults with another period each."""
    return [
        Candidate(f"{name}-{value}", f"{name} = {value}", {**space.defaults(), name: value})
        for name, values in space.PERIODS.items()
        for value in values
    ]


def gain(loss: float, reference: float) -> float:
    """log(loss / reference), within ±``CLIP``; a run that diverged has lost that much."""
    if not math.isfinite(loss):
        return CLIP
    if not math.isfinite(reference):
        return -CLIP
    return max(-CLIP, min(CLIP, math.log(max(loss, _LEAST) / max(reference, _LEAST))))


_LEAST = 1e-12


def read(path: Path) -> Outcome:
    """A run that diverged has no numbers there, as JSON has none for them."""
    found: dict[str, Any] = json.loads(path.read_text())
    loss, score = (bad if found[key] is None else found[key] for key, bad in (("loss", math.inf), ("score", math.nan)))
    return Outcome(loss, score, found["seconds"])


def importances(study: optuna.Study) -> dict[str, float]:
    """Shares of the variance of the values, by optuna's functional analysis of variance; {} of too few or equal."""
    values = [trial.value for trial in finished(study)]
    if len(values) < _FEWEST or len(set(values)) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


_FEWEST = 10
