"""Contenders in processes of their own: what hangs or crashes costs one check, and patches of a package stay inside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ocnopt_lab.acceptance import contenders
from ocnopt_lab.acceptance.check import Outcome

_POLL = 0.1  # seconds

Outcomes = dict[str, Outcome]
"""By the name of the check."""


def measure(name: str, checks: Sequence[str], limit: float, tell: Callable[[str], None] = print) -> Outcomes:
    """The outcomes of one contender; limit: seconds for each check; tell: takes lines of progress.

    All are "missing" where the contender's package is not installed.
    """
    package = contenders.get(name).package
    try:
        version(package)
    except PackageNotFoundError:
        return dict.fromkeys(checks, Outcome("missing", f"{package} is not installed"))
    found: Outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        while left := [check for check in checks if check not in found]:
            found |= _some(name, left, limit, Path(folder) / f"{len(left)}.jsonl")
            tell(f"{name}: {len(found)} of {len(checks)} checks")
    return found


def _some(name: str, checks: Sequence[str], limit: float, out: Path) -> Outcomes:
    """At least one outcome: where the process ends before all are there, the next check is to blame."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ocnopt_lab.acceptance", name, str(out), *checks],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        ended = _wait(process, out, limit)
    finally:
        _kill(process)
    found = _read(out)
    if len(found) < len(checks):
        how = f"the process ended with exit code {process.returncode}" if ended else f"no end after {limit:g} s"
        found[checks[len(found)]] = Outcome("failed", how)
    return found


def _wait(process: subprocess.Popen[bytes], out: Path, limit: float) -> bool:
    """Whether the process ended by itself; it is given up where no outcome comes within the limit."""
    known, since = 0, time.monotonic()
    while process.poll() is None:
        time.sleep(_POLL)
        if len(_read(out)) > known:
            known, since = len(_read(out)), time.monotonic()
        elif time.monotonic() - since > limit:
            return False
    return True


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The process and those that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(out: Path) -> Outcomes:
    lines = out.read_text().splitlines() if out.exists() else []
    records = [json.loads(line) for line in lines]
    return {record.pop("check"): Outcome(**record) for record in records}
