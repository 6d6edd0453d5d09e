"""What a check is, and how its outcome is judged."""

from __future__ import annotations

import importlib.util
import re
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from ocnopt_lab.acceptance.run import Make, Run

if TYPE_CHECKING:
    from ocnopt_lab.acceptance.processes import Found

Status = Literal["passed", "refused", "failed", "missing"]


@dataclass(frozen=True)
class Contender:
    """An optimizer that is put to the checks.

    make: builds it, with the options that its documentation names where it names any.
    given: the same without anything that is drawn at random, for comparisons of batches that are cut differently.
    unrepeated: what it turns into where modules cannot be called a second time.
    refuses: check → how the one sentence begins that is raised in place of what is checked.
    package: the distribution it comes from.
    precision: of parameters where differences are looked at; single for what does not take double.
    rounding: what weights may differ by after a few steps where sums are taken in another order.
    """

    name: str
    make: Make
    given: Make
    unrepeated: Make
    refuses: Mapping[str, str] = field(default_factory=dict)
    package: str = "torch"
    precision: torch.dtype = torch.float64
    rounding: float = 1e-10

    def run(self, make: Make | None = None, problem: str = "mlp") -> Run:
        """A run in the contender's precision, with its optimizer unless another is given."""
        return Run(make or self.make, problem, self.precision)


class Failed(AssertionError):
    """What went wrong, in words that fit under a table."""


def require(holds: bool, otherwise: str) -> None:
    """Raise Failed with the sentence unless the condition holds."""
    if not holds:
        raise Failed(otherwise)


class Bench:
    """What checks share: a folder for what they write, and processes that are started once for several contenders."""

    def __init__(self, contenders: Sequence[str]) -> None:
        self.contenders = tuple(contenders)

    def folder(self) -> Path:
        """A new folder, which goes with the bench."""
        return Path(tempfile.mkdtemp(dir=self.root.name))

    @cached_property
    def root(self) -> tempfile.TemporaryDirectory[str]:
        return tempfile.TemporaryDirectory()

    @cached_property
    def found(self) -> Found:
        """What two processes have found out about the contenders."""
        from ocnopt_lab.acceptance.processes import find  # which imports torch.distributed

        return find(self.contenders, self.folder())


Body = Callable[[Contender, Bench], None]


@dataclass(frozen=True)
class Check:
    """One row of the matrix.

    symptom: what a user sees where it fails.
    body: raises where it fails.
    needs: modules beyond torch; those inside of a package after the package.
    """

    name: str
    symptom: str
    body: Body
    needs: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """The first module that it needs and that is not installed."""
        return next((name for name in self.needs if importlib.util.find_spec(name) is None), None)


@dataclass(frozen=True)
class Outcome:
    """Refused: by the sentence that the contender says beforehand. Missing: a library that the check needs."""

    status: Status
    note: str = ""
    trace: str = ""


def judge(check: Check, contender: Contender, bench: Bench) -> Outcome:
    """Put a contender to a check."""
    if name := check.missing():
        return Outcome("missing", f"{name} is not installed")
    expected = contender.refuses.get(check.name)
    try:
        check.body(contender, bench)
    except Exception as error:
        refused = expected is not None and isinstance(error, ValueError) and str(error).startswith(expected)
        return Outcome("refused" if refused else "failed", said(error), traceback.format_exc())
    if expected is not None:
        return Outcome("failed", f"no longer refused with “{expected} …”")
    return Outcome("passed")


def said(error: BaseException) -> str:
    """The first line of an error, with its class unless that is Failed."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # without colours
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    first = lines[0] if lines else ""
    return first if isinstance(error, Failed) else f"{type(error).__name__}: {first}".rstrip(": ")
