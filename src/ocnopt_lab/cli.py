"""The command `ocnopt`: train, problems, profile, policy, report, demo, doctor, compare, ablate, robustness."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro
from rich.console import Console

import ocnopt
from ocnopt_lab.commands import COMMANDS, Command
from ocnopt_lab.errors import exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(f"ocnopt {ocnopt.__version__}")
        return 0
    command: Command = tyro.cli(COMMANDS, args=arguments, prog="ocnopt", description=__doc__)
    return exit_code("ocnopt", lambda: command.run(Console()))
