"""Puts the profile.md of a run folder of `ocnopt profile` into a page, between its markers for profile.

ocnopt profile fashion-mnist-cnn --out runs/profile
python benchmarks/profile_page.py runs/profile --write docs/benchmarks.md
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import tyro
from pages import insert
from tyro.conf import Positional

from ocnopt_lab.errors import LabError, exit_code


@dataclass(frozen=True)
class ProfilePage:
    """Put a profile into a page."""

    run: Positional[Path]
    """Run folder of `ocnopt profile`."""
    write: Path = Path("docs/benchmarks.md")
    """The page."""

    def put(self) -> int:
        insert(self.write, "profile", self.text())
        return 0

    def text(self) -> str:
        """The profile without its title of the first level."""
        file = self.run / "profile.md"
        try:
            title, _, rest = file.read_text().partition("\n")
        except OSError as error:
            raise LabError(f"Cannot read {file}: {error.strerror or error}.") from error
        return f"**{title.removeprefix('# ')}**\n\n{rest.strip()}"


if __name__ == "__main__":
    sys.exit(exit_code("profile_page", lambda: tyro.cli(ProfilePage, description=__doc__).put()))
