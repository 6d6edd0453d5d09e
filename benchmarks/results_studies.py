"""The studies behind docs/results: what is trained, at which size, by which command of `ocnopt`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ocnopt_lab.commands.ablate import Ablate
from ocnopt_lab.commands.compare import Compare
from ocnopt_lab.commands.robustness import Robustness
from ocnopt_lab.studies.experiment import Experiment
from ocnopt_lab.studies.summaries import Result, results_of

TABLE = "ocnopt,ekfac-off,adam,rmsprop,sgd"
"""The methods of DDPNOpt's Table 3 that are cheap to sweep."""
SEARCHES = ("fixed", "model", "bounded")
ROBUST = {
    "wine-fcn": {"epochs": 10, "values": (8,)},
    "digits-fcn": {"epochs": 4, "values": (32, 128)},
    "mnist-fcn": {"epochs": 1, "train_samples": 8000, "eval_samples": 4000, "values": (64,)},
    "fashion-mnist-fcn": {"epochs": 1, "train_samples": 8000, "eval_samples": 4000, "values": (64,)},
    "uci-energy": {"epochs": 8, "values": (32,)},
    "resnet-small": {"epochs": 1, "train_samples": 2000, "eval_samples": 1000, "values": (64,), "seeds": 1},
}
"""The six problems whose usable ranges of rates are measured, and to what size they are cut."""
ON_DEVICE = ("resnet-small", "mnist-cnn", "fashion-mnist-cnn", "cifar10-cnn")
"""Problems that train on the accelerator where there is one."""


def studies(out: Path, device: str) -> dict[str, Experiment]:
    """By name; each in a folder of that name, its runs in one process."""
    found = {**tables(), **ablations(), **robustness(), **times()}
    return {name: placed(study, out / name, device) for name, study in found.items()}


def placed(study: Experiment, folder: Path, device: str) -> Experiment:
    there = "-cpu" not in folder.name and set(study.problems) <= set(ON_DEVICE)
    return replace(study, out=folder, jobs=0, device=device if there else "cpu")


def tables() -> dict[str, Experiment]:
    """DDPNOpt's Table 3; the extended method of successive approximations apart, at one rate, for its cost."""
    small = {"optimizers": TABLE, "seeds": 2}
    part = {**small, "train_samples": 12_000, "epochs": 1}
    images = {**small, "train_samples": 4000, "eval_samples": 4000, "epochs": 2}
    return {
        "table-wine-fcn": Compare(problems=("wine-fcn",), epochs=15, **small),
        "table-digits-fcn": Compare(problems=("digits-fcn",), epochs=8, **small),
        "table-mnist-fcn": Compare(problems=("mnist-fcn",), **part),
        "table-fashion-mnist-fcn": Compare(problems=("fashion-mnist-fcn",), **part),
        "table-mnist-cnn": Compare(problems=("mnist-cnn",), **images),
        "table-fashion-mnist-cnn": Compare(problems=("fashion-mnist-cnn",), **images),
        "table-cifar10-cnn": Compare(problems=("cifar10-cnn",), **images),
        "emsa-wine-fcn": Compare(problems=("wine-fcn",), optimizers="emsa", sweep="none", epochs=15, seeds=2),
        "emsa-digits-fcn": Compare(problems=("digits-fcn",), optimizers="emsa", sweep="none", epochs=8, seeds=2),
    }


def ablations() -> dict[str, Experiment]:
    sizes = {"epochs": 2, "train_samples": 4000, "eval_samples": 4000, "seeds": 2}
    seen = {"axes": ("samples",), "seeds": 5}
    return {
        "ablate-mnist-cnn": Ablate(problems=("mnist-cnn",), axes=("metric", "rollout", "kappa"), **sizes),
        "ablate-mnist-cnn-fixed": Ablate(problems=("mnist-cnn",), axes=("kappa", "beta"), search="fixed", **sizes),
        "ablate-samples-digits-fcn": Ablate(problems=("digits-fcn",), epochs=16, batch_size=256, **seen),
        "ablate-samples-mnist-fcn": Ablate(
            problems=("mnist-fcn",), epochs=4, train_samples=12_000, batch_size=512, **seen
        ),
        "ablate-samples-fashion-mnist-cnn": Ablate(problems=("fashion-mnist-cnn",), **{**sizes, **seen}),
    }


def robustness() -> dict[str, Experiment]:
    return {
        f"robustness-{name}-{search}": Robustness(problems=(name,), search=search, **{"seeds": 2, **sizes})
        for name, sizes in ROBUST.items()
        for search in SEARCHES
    }


def times() -> dict[str, Experiment]:
    """On a processor, where steps of convolutional networks cost more than what is around them."""
    sizes = {"optimizers": "ocnopt,adamw", "seeds": 2, "train_samples": 4000, "eval_samples": 2000}
    return {
        "time-mnist-cnn-cpu": Compare(problems=("mnist-cnn",), epochs=3, **sizes),
        "time-fashion-mnist-cnn-cpu": Compare(problems=("fashion-mnist-cnn",), epochs=3, **sizes),
    }


def complete(study: Experiment) -> Sequence[Result]:
    """What is there of it."""
    return results_of([run for run in study.plan() if run.summary() is not None])
