"""Checks in a process of their own: what hangs or crashes costs one check, and patches of a package stay inside."""

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

Pair = tuple[str, str]
"""Contender and check."""


def measure(
    names: Sequence[str], checks: Sequence[str], limit: float, tell: Callable[[str], None] = print
) -> dict[Pair, Outcome]:
    """The outcomes of contenders that share a process; limit: seconds for each check; tell: takes lines of progress.

    Those of a contender whose package is not installed are "missing".
    """
    found: dict[Pair, Outcome] = {}
    for name in names:
        if not installed(package := contenders.get(name).package):
            found |= {(name, check): Outcome("missing", f"{package} is not installed") for check in checks}
    pairs = [(name, check) for name in names for check in checks]
    with tempfile.TemporaryDirectory() as folder:
        while left := [pair for pair in pairs if pair not in found]:
            found |= _some(left, limit, Path(folder) / f"{len(left)}.jsonl")
            tell(f"{len(found)} of {len(pairs)} outcomes of {', '.join(names)}")
    return found


def installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _some(pairs: Sequence[Pair], limit: float, out: Path) -> dict[Pair, Outcome]:
    """At least one outcome: where the process ends before all are there, the next pair is to blame."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ocnopt_lab.acceptance", str(out)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, text=True,
    )  # fmt: skip
    try:
        assert process.stdin is not None
        with process.stdin as file:
            json.dump(list(pairs), file)
        ended = _wait(process, out, limit)
    finally:
        _kill(process)
    outcomes = _read(out)
    if len(outcomes) < len(pairs):
        how = f"the process ended with exit code {process.returncode}" if ended else f"no end after {limit:g} s"
        outcomes.append(Outcome("failed", how))
    return dict(zip(pairs, outcomes, strict=False))


def _wait(process: subprocess.Popen[str], out: Path, limit: float) -> bool:
    """Whether the process ended by itself; it is given up where no outcome comes within the limit."""
    known, since = 0, time.monotonic()
    while process.poll() is None:
        time.sleep(_POLL)
        if (now := len(_read(out))) > known:
            known, since = now, time.monotonic()
        elif time.monotonic() - since > limit:
            return False
    return True


def _kill(process: subprocess.Popen[str]) -> None:
    """The process and those that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(out: Path) -> list[Outcome]:
    """Of whole lines."""
    text = out.read_text() if out.exists() else ""
    return [Outcome(**json.loads(line)) for line in text.splitlines(keepends=True) if line.endswith("\n")]
