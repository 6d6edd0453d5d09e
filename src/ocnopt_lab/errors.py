"""The one error class of expected failures: its message is a sentence the user can act on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Exit codes as shells and argparse use them.
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130


class LabError(Exception):
    """An expected failure. The command line prints the message as one line and exits with `code`."""

    def __init__(self, message: str, code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.code = code


def exit_code(name: str, run: Callable[[], int], interrupted: str = "interrupted.") -> int:
    """What ``run`` returns; an expected failure and Ctrl-C are one line on stderr, behind the name of the command."""
    try:
        return run()
    except LabError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(f"{name}: {interrupted}", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what a full disk or an unwritable folder raises into one sentence about `path`."""
    try:
        yield
    except OSError as error:
        raise LabError(f"Cannot write {path}: {error.strerror or error}.", FAILED) from error
