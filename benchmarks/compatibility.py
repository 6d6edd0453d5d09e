"""Puts OCNOpt, AdamW and the optimizers of other packages to the checks of ocnopt_lab.acceptance.

python benchmarks/compatibility.py --write docs/compatibility.md
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from matrix import Results, combinations, matrix, symptoms, versions
from pages import insert

from ocnopt.curvature import TABLE as CURVATURES
from ocnopt_lab.acceptance import suite
from ocnopt_lab.acceptance.apart import measure
from ocnopt_lab.acceptance.check import Check
from ocnopt_lab.acceptance.contenders import CONTROL, OURS, PEERS, TABLE_OF_ALL
from ocnopt_lab.errors import FAILED, LabError, exit_code

LIBRARIES = ("torch", "ocnopt", "pytorch_optimizer", "heavyball", "singd", "lightning", "transformers", "accelerate")
COLUMNS = {CONTROL: "AdamW", **{name: f"OCNOpt {name}" for name in CURVATURES}, **{name: name for name in PEERS}}
"""Contender → its heading in the first table. OCNOpt's are those with the default value and roll-out."""


@dataclass(frozen=True)
class Compatibility:
    """Run the checks, each contender in a process of its own; the exit code is 1 where AdamW or OCNOpt fails any."""

    contenders: tuple[str, ...] = (*COLUMNS, *(name for name in OURS if name not in COLUMNS))
    """Who is put to the checks."""
    checks: tuple[str, ...] = tuple(check.name for check in suite.CHECKS)
    """The rows."""
    limit: float = 600.0
    """Seconds for each check; far more than any takes that ends, also on a machine that is busy."""
    write: Path | None = None
    """Page to put the tables into, for which all contenders and checks are needed. Left out: only print them."""

    def run(self) -> int:
        """Measure, print, and write."""
        self.require_known()
        results = self.measured()
        chosen = [suite.get(name) for name in self.checks]
        sections = self.sections(results, chosen)
        print("\n\n".join(sections.values()))
        if self.write is not None:
            for section, text in sections.items():
                insert(self.write, section, text)
        ours = [results[name] for name in self.contenders if name in OURS or name == CONTROL]
        return FAILED if any(x.status in ("failed", "missing") for found in ours for x in found.values()) else 0

    def measured(self) -> Results:
        """AdamW and OCNOpt in one process, every other contender in one of its own."""
        together = [name for name in self.contenders if name in OURS or name == CONTROL]
        groups = [together, *([name] for name in self.contenders if name not in together)]
        found = {}
        for names in filter(None, groups):
            found |= measure(names, self.checks, self.limit, say)
        return {name: {check: found[name, check] for check in self.checks} for name in self.contenders}

    def require_known(self) -> None:
        """Raise LabError for names that are not known, and for a page with less than everything."""
        known = {check.name for check in suite.CHECKS}
        if foreign := [*(set(self.contenders) - TABLE_OF_ALL.keys()), *(set(self.checks) - known)]:
            raise LabError(f"Not known: {', '.join(foreign)}. Contenders: {', '.join(TABLE_OF_ALL)}.")
        everything = {*COLUMNS, *OURS} <= set(self.contenders) and known == set(self.checks)
        if self.write is not None and not everything:
            raise LabError("A page needs all contenders and checks; leave out --contenders and --checks, or --write.")

    def sections(self, results: Results, checks: Sequence[Check]) -> dict[str, str]:
        """Marker on the page → text. The table of combinations only where all of them were measured."""
        titles = {name: COLUMNS.get(name, name) for name in self.contenders if name not in OURS or name in COLUMNS}
        if not titles:
            titles = {name: name for name in self.contenders}
        found = {"matrix": f"{versions(LIBRARIES)}.\n\n{matrix(results, checks, titles)}"}
        if set(OURS) <= results.keys():
            found["combinations"] = combinations(results, checks, tuple(CURVATURES))
        return found | {"symptoms": symptoms(checks)}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(exit_code("compatibility", lambda: tyro.cli(Compatibility, description=__doc__).run()))
