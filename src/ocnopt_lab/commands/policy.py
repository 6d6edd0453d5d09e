"""`ocnopt policy`: what the layers of a run react to, and how strongly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from tyro.conf import Positional, arg

from ocnopt_lab.errors import LabError
from ocnopt_lab.policies import Leading, Recorded, leading
from ocnopt_lab.policies.history import Moment, gains_of, logged, recorded
from ocnopt_lab.runs import checkpoint, folder, session
from ocnopt_lab.runs.config import RunConfig

PICTURE, STATES, GAINS, NUMBERS = "policy.png", "policy_states.png", "policy_gains.png", "policy.json"


@dataclass(frozen=True)
class Policy:
    """Draw what the feedback of each layer of a run reacts to most, and how its gain went through training."""

    run_folder: Positional[Annotated[Path, arg(metavar="RUN")]]
    """Folder of a run of ocnopt, ended or not."""
    samples: int = 64
    """How many training samples are the batch."""
    shown: int = 6
    """How many of them are drawn: those that have the largest part in it."""
    terminal: str | None = None
    """The terminal factor to look with. Left out: that of the run, mostly of rank one, for which every layer reacts to
    the gradient of the sample; gauss-newton shows the exact curvature of the loss."""
    out: Path | None = None
    """Folder for the pictures. Left out: the run folder."""

    def run(self, console: Console) -> int:
        """Draws, prints the gains and says where the pictures are."""
        self._check()
        config = self._config()
        states = checkpoint.states(self.run_folder)
        policies = self._recorded(config, states[-1])
        found = {path: leading(feedback) for path, feedback in policies.policies.items()}
        own = logged(states[-1]["metrics"]) if self.terminal is None else []
        moments = own or self._moments(config, states)
        out = self.out or self.run_folder
        out.mkdir(parents=True, exist_ok=True)
        title = f"{config.problem}, {config.optimizer.label}, epoch {states[-1]['counters']['epoch']}"
        self._draw(out, title, policies, found, moments)
        folder.write_json(out / NUMBERS, self._numbers(config, policies, found, moments))
        console.print(_table(title, policies, found))
        for name in (PICTURE, STATES, GAINS):
            if (out / name).exists():
                console.print(f"Picture: {out / name}", soft_wrap=True, highlight=False)
        return 0

    def _check(self) -> None:
        for name in ("samples", "shown"):
            if (value := getattr(self, name)) < 1:
                raise LabError(f"--{name} is {value}; it must be at least 1.")

    def _config(self) -> RunConfig:
        config = folder.read_config(self.run_folder)
        if self.terminal is None:
            return config
        return replace(config, optimizer=replace(config.optimizer, terminal=self.terminal))

    def _recorded(self, config: RunConfig, state: Mapping[str, object]) -> Recorded:
        return recorded(session.restored(config, self.run_folder, state), self.samples)

    def _moments(self, config: RunConfig, states: Sequence[Mapping[str, object]]) -> list[Moment]:
        """What the kept checkpoints show, where the run did not measure these gains itself."""
        trainers = [session.restored(config, self.run_folder, state) for state in states]
        return [Moment(t.counters.epoch, gains_of(recorded(t, self.samples))) for t in trainers]

    def _draw(
        self, out: Path, title: str, policies: Recorded, found: Mapping[str, Leading], moments: Sequence[Moment]
    ) -> None:
        from ocnopt_lab.policies import pictures  # matplotlib: not for those who only ask for help

        x, y = policies.batch.x, policies.batch.y
        most = chosen(found, self.shown)
        heads = [f"{_name(y[i])}{share(found, i):.0%}" for i in most.tolist()]
        states = [
            pictures.Strip(path, [pictures.signed(top.direction[i]) for i in most]) for path, top in found.items()
        ]
        pictures.grid(out / STATES, f"{title}: at the layers", heads, states)
        if x.dim() == 4:
            images = [pictures.Strip("image", [pictures.seen(x[i]) for i in most], "gray")]
            for path, top in found.items():
                pulled = policies.pulled_back(x, path, top.direction)
                images.append(pictures.Strip(path, [pictures.signed(pulled[i]) for i in most]))
            pictures.grid(out / PICTURE, f"{title}: seen from the image", heads, images)
        pictures.through_training(out / GAINS, f"{title}: gains", moments)

    def _numbers(
        self, config: RunConfig, policies: Recorded, found: Mapping[str, Leading], moments: Sequence[Moment]
    ) -> folder.Row:
        return {
            "problem": config.problem,
            "optimizer": config.optimizer.label,
            "terminal": config.optimizer.terminal or "auto",
            "samples": self.samples,
            "gains": {path: top.gain for path, top in found.items()},
            "left_out": list(policies.left_out),
            "through_training": [{"epoch": moment.epoch, "gains": dict(moment.gains)} for moment in moments],
        }


def chosen(found: Mapping[str, Leading], shown: int) -> Tensor:
    """The samples with the largest part in the directions of all layers, the largest first."""
    shares = torch.stack([top.shares for top in found.values()]).mean(0)
    return shares.argsort(descending=True)[:shown]


def share(found: Mapping[str, Leading], sample: int) -> float:
    return float(torch.stack([top.shares[sample] for top in found.values()]).mean())


def _name(y: Tensor) -> str:
    """A label, where there is one."""
    return f"{int(y)}, " if y.dim() == 0 and not y.is_floating_point() else ""


def _table(title: str, policies: Recorded, found: Mapping[str, Leading]) -> Table:
    left_out = f"; {len(policies.left_out)} other layers are left out" if policies.left_out else ""
    table = Table(title=title, caption=f"Largest singular value of K{left_out}")
    table.add_column("layer", no_wrap=True)
    table.add_column("gain", justify="right")
    table.add_column("state", justify="right")
    table.add_column("parameters", justify="right")
    for path, top in found.items():
        feedback = policies.policies[path]
        state = "x".join(map(str, feedback.state_shape[1:]))
        table.add_row(path, f"{top.gain:.3g}", state, str(sum(s.numel() for s in feedback.parameter_shapes)))
    return table
