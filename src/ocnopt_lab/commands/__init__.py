"""One dataclass per command: its fields are the options, `run` does the work and returns the exit code."""

from __future__ import annotations

from typing import Annotated, Protocol

from rich.console import Console
from tyro.conf import subcommand

from ocnopt_lab.commands.ablate import Ablate
from ocnopt_lab.commands.compare import Compare
from ocnopt_lab.commands.demo import Demo
from ocnopt_lab.commands.doctor import Doctor
from ocnopt_lab.commands.policy import Policy
from ocnopt_lab.commands.problems import Problems
from ocnopt_lab.commands.profile import Profile
from ocnopt_lab.commands.report import Report
from ocnopt_lab.commands.robustness import Robustness
from ocnopt_lab.commands.train import Train
from ocnopt_lab.commands.tune import Tune


class Command(Protocol):
    """What the command line expects of a command."""

    def run(self, console: Console) -> int:
        """Does the work; the exit code."""
        ...


COMMANDS = (
    Annotated[Train, subcommand("train")]
    | Annotated[Problems, subcommand("problems")]
    | Annotated[Profile, subcommand("profile")]
    | Annotated[Policy, subcommand("policy")]
    | Annotated[Report, subcommand("report")]
    | Annotated[Demo, subcommand("demo")]
    | Annotated[Doctor, subcommand("doctor")]
    | Annotated[Compare, subcommand("compare")]
    | Annotated[Ablate, subcommand("ablate")]
    | Annotated[Robustness, subcommand("robustness")]
    | Annotated[Tune, subcommand("tune")]
)

__all__ = ["COMMANDS", "Command"]
