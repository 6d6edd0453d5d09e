"""`ocnopt report`: runs and studies as one page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from ocnopt_lab.errors import LabError, writing

if TYPE_CHECKING:
    from ocnopt_lab.reports import Finding

_FILE = "report.html"


@dataclass(frozen=True)
class Report:
    """Write runs and studies as one HTML page that needs no other file and no network."""

    folders: Positional[Annotated[tuple[Path, ...], arg(metavar="RUN...")]] = ()
    """Folders of runs, of studies, or folders that hold some."""
    out: Path | None = None
    """The page. Left out: report.html in the folder if there is one only, in the working directory otherwise."""
    title: str | None = None
    """Its title. Left out: the problems."""

    def run(self, console: Console) -> int:
        """Reads, writes the page and says where it is."""
        from ocnopt_lab import reports  # jinja2 and matplotlib: not for those who only ask for help

        if not self.folders:
            raise LabError("Which runs? Name folders of runs or studies, such as runs/first.")
        found = reports.read(self.folders)
        out = self.out or (self.folders[0] / _FILE if len(self.folders) == 1 else Path(_FILE))
        page = reports.render(self.title or _title(found), shlex.join(self._words()), found)
        with writing(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(page, encoding="utf-8")
        console.print(f"Report: {out}", soft_wrap=True, highlight=False)
        return 0

    def _words(self) -> list[str]:
        given = {"--out": self.out, "--title": self.title}
        options = [word for name, value in given.items() if value is not None for word in (name, str(value))]
        return ["ocnopt", "report", *map(str, self.folders), *options]


def _title(found: Sequence[Finding]) -> str:
    from ocnopt_lab.reports.reading import RunFound

    names = dict.fromkeys(x.config.problem if isinstance(x, RunFound) else x.told["problem"] for x in found)
    return f"Training of {', '.join(names)}"
