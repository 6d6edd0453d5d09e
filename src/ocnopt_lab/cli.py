"""The command `ocnopt`: train, problems, profile, demo, doctor."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import tyro
from rich.console import Console

import ocnopt
from ocnopt_lab.commands import COMMANDS, Command
from ocnopt_lab.errors import INTERRUPTED, LabError


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; an expected failure is one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments == ["--version"]:
        print(f"ocnopt {ocnopt.__version__}")
        return 0
    command: Command = tyro.cli(COMMANDS, args=arguments, prog="ocnopt", description=__doc__)
    try:
        return command.run(Console())
    except LabError as error:
        print(f"ocnopt: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print("ocnopt: interrupted.", file=sys.stderr)
        return INTERRUPTED
