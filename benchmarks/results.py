"""The studies behind docs/results, and their pages: DDPNOpt's Table 3, ablation, robustness, time to target, defaults.

    python benchmarks/results.py --run robustness-digits-fcn-fixed --data-dir FOLDER --device cuda
    python benchmarks/results.py --write docs/results

The first does what is missing of the studies named, the second puts all that is there into the pages.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import results_pictures
import torch
import tyro
from pages import insert
from results_parts import NOTHING, blocks, circumstances
from results_robustness import robustness, widths_of
from results_studies import complete, studies
from results_text import table_three, time_to_target
from rich.console import Console

from ocnopt_lab.errors import LabError, exit_code, writing
from ocnopt_lab.studies.experiment import Experiment

IMAGES = "images"


@dataclass(frozen=True)
class Pages:
    """Runs studies, writes pages, or both."""

    run: tuple[str, ...] = ()
    """Names of studies to run; `all` for every one."""
    write: Path | None = None
    """The folder of the pages, each with markers for its section."""
    device: str = "cpu"
    """Where the convolutional and residual networks of the table, the ablation and the grids train."""
    data_dir: Path | None = None
    """Folder with the data, as for `ocnopt train`."""
    out: Path = Path("runs/results")
    """Folder for the studies, one folder each."""
    tune: Path = Path("runs/tune")
    """Folder of `ocnopt tune`, whose results.md is the page about defaults."""

    def work(self, console: Console) -> int:
        torch.set_num_threads(1)
        known = studies(self.out, self.device)
        names = tuple(known) if self.run == ("all",) else self.run
        if wrong := [name for name in names if name not in known]:
            raise LabError(f"There is no study {wrong[0]!r}; choose from {', '.join(known)}.")
        if not names and self.write is None:
            raise LabError("Nothing to do: name studies with --run, or a folder of pages with --write.")
        for name in names:
            replace(known[name], data_dir=self.data_dir).run(console)
        if self.write is not None:
            self.pages(self.write, known)
        return 0

    def pages(self, folder: Path, known: dict[str, Experiment]) -> None:
        """Of what is complete, whatever else is missing."""
        insert(folder / "ddpnopt.md", "table", table_three(known))
        insert(folder / "time-to-target.md", "times", time_to_target(known))
        insert(folder / "ablation.md", "ablation", self.ablation(folder, known))
        insert(folder / "robustness.md", "robustness", robustness(known) + self.grids(folder, known))
        found = self.tune / "results.md"
        insert(folder / "defaults.md", "defaults", found.read_text() if found.exists() else NOTHING)

    def ablation(self, folder: Path, known: dict[str, Experiment]) -> str:
        """Sentences, tables and the picture of each study."""
        parts: list[str] = []
        for name, study in known.items():
            runs = [run for run in study.plan() if run.summary() is not None]
            if name.startswith("ablate-") and runs:
                found = study.results(complete(study), runs)
                parts += [f"### {study.command()}", *found.sentences[1:], *(table.markdown() for table in found.tables)]
                parts += [
                    self.copied(study.folder / picture.file, folder, name, picture.caption)
                    for picture in found.pictures
                ]
                parts += circumstances([study])
        return blocks(parts) if parts else NOTHING

    def grids(self, folder: Path, known: dict[str, Experiment]) -> str:
        found = widths_of(known)
        if not found:
            return ""
        own = self.out / "robustness.png"
        results_pictures.rates(own, found)
        told = [self.copied(own, folder, "robustness", "Median score over the rate, as a multiple of the default's.")]
        for search in ("fixed", "bounded"):
            path = self.out / f"robustness-{search}.png"
            results_pictures.maps(path, found, search)
            told.append(self.copied(path, folder, path.stem, f'Scores with search="{search}". Grey: diverged.'))
        return "\n" + blocks(told)

    def copied(self, picture: Path, folder: Path, name: str, caption: str) -> str:
        """The picture beside the pages, as Markdown."""
        target = folder.parent / IMAGES / f"{name}.png"
        with writing(target):
            shutil.copyfile(picture, target)
        return f"![{caption}](../{IMAGES}/{target.name})\n\n{caption}"


if __name__ == "__main__":
    onward = "interrupted; the same command goes on from here."
    sys.exit(exit_code("results", lambda: tyro.cli(Pages, description=__doc__).work(Console()), onward))
