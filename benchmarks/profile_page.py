"""Puts the profile.md of run folders of `ocnopt profile` into a page, between its markers for profile.

ocnopt profile fashion-mnist-cnn --out runs/profile
python benchmarks/profile_page.py runs/profile --write docs/benchmarks.md

Folders that are not there yet are left out, and the picture of each is copied next to the others.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from pages import insert
from tyro.conf import Positional

from ocnopt_lab.errors import LabError, exit_code, writing


@dataclass(frozen=True)
class ProfilePage:
    """Put profiles into a page."""

    runs: Positional[tuple[Path, ...]]
    """Run folders of `ocnopt profile`."""
    write: Path = Path("docs/benchmarks.md")
    """The page."""
    pictures: Path = Path("docs/images")
    """Where pictures go."""

    def put(self) -> int:
        there = [run for run in self.runs if (run / "profile.md").exists()]
        if not there:
            raise LabError(f"None of {', '.join(map(str, self.runs))} has a profile.md; run ocnopt profile first.")
        insert(self.write, "profile", "\n\n".join(self.text(run) for run in there))
        return 0

    def text(self, run: Path) -> str:
        """The profile with its title in bold, and its picture where there is one."""
        file = run / "profile.md"
        try:
            title, _, rest = file.read_text().partition("\n")
        except OSError as error:
            raise LabError(f"Cannot read {file}: {error.strerror or error}.") from error
        return "\n\n".join([f"**{title.removeprefix('# ')}**", *self.picture(run), rest.strip()])

    def picture(self, run: Path) -> list[str]:
        """The growth of a step, as a link of the page."""
        if not (run / "growth.png").exists():
            return []
        target = self.pictures / f"growth-{run.name}.png"
        with writing(target):
            self.pictures.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(run / "growth.png", target)
        return [f"![Time and memory of a step]({Path(os.path.relpath(target, self.write.parent)).as_posix()})"]


if __name__ == "__main__":
    sys.exit(exit_code("profile_page", lambda: tyro.cli(ProfilePage, description=__doc__).put()))
