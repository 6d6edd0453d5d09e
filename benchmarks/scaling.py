"""What OCNOpt sends and decomposes on 8 to 1,024 processes: a model, checked on this machine with 1, 2 and 4.

    python benchmarks/scaling.py --write docs/scaling.md

Measures all-reduces, decompositions and whole steps of two narrow networks, then puts both networks in full width
into the formulas of cost_model.py.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from cost_model import Cost, Link, Network, Speeds, cost_of, longest, network_of, plain_step, priced
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from pages import insert
from rich.console import Console
from rich.markdown import Markdown
from scaling_models import Transformer, narrow, resnet18
from scaling_runs import Timed, bases, measured
from scaling_text import Check, check_table, constants, cost_tables, machine

from ocnopt.curvature import EKFAC
from ocnopt_lab.errors import exit_code, writing
from ocnopt_lab.runs.axes import plain

LINKS = (Link("10 Gbit/s", 30e-6, 1.25e9), Link("100 Gbit/s", 10e-6, 12.5e9), Link("400 Gbit/s", 5e-6, 50e9))
COLOURS = ("#D55E00", "#0072B2", "#009E73")
FULL = {"resnet": resnet18, "transformer": Transformer}


@dataclass(frozen=True)
class Scaling:
    """Costs of data parallel training, measured on few processes and predicted for many."""

    networks: tuple[str, ...] = ("resnet", "transformer")
    """What is measured, narrow, and predicted, in full width."""
    processes: tuple[int, ...] = (1, 2, 4)
    """Numbers of processes to measure with; the first is 1."""
    ranks: tuple[int, ...] = (8, 32, 128, 1024)
    """Numbers of processes to predict."""
    step_ms: tuple[float, ...] = (100.0, 200.0)
    """Assumed milliseconds of forward, backward and update of one process, for each network."""
    sizes: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024)
    """Sizes of the factors whose decompositions are measured."""
    repeats: int = 9
    """Measurements of which the shortest counts."""
    out: Path = Path("runs/scaling")
    """Folder for the picture and results.md."""
    write: Path | None = None
    """A page to put the tables into, between its markers for scaling; the picture goes into images beside it."""

    def run(self, console: Console) -> int:
        """Measures, predicts, writes."""
        torch.set_num_threads(1)
        curvature = EKFAC()
        speeds = bases(list(self.sizes), self.repeats)
        found = {p: measured(p, self.networks, self.repeats) for p in self.processes}
        networks = {name: priced(network_of(narrow(name), curvature), speeds) for name in self.networks}
        links = {p: fitted(found[p]["sums"], p) for p in self.processes if p > 1}
        checks = [self.check(name, p, networks[name], found, links) for name in self.networks for p in self.processes]
        costs = self.costs(curvature, speeds)
        blocks = [machine(os.getloadavg()[0]), constants(links, speeds), check_table(checks)]
        text = "\n\n".join(
            [*blocks, cost_tables(costs, self.ranks, dict(zip(self.networks, self.step_ms, strict=True)))]
        )
        self.save(text, costs)
        console.print(Markdown(text))
        return 0

    def check(self, name: str, p: int, network: Network, found: dict[int, Any], links: dict[int, Link]) -> Check:
        """One narrow network on so many processes. Where there are more of them than cores, they take turns."""
        one: Timed = found[1][name]
        seen: Timed = found[p][name]
        slow = max(1.0, p / (os.cpu_count() or 1))
        step, sent = slow * one.step, (0, 0)
        if p > 1:
            plain = plain_step(network)
            step += links[p].total(plain, p) + links[p].seconds(network.parameters, p)
            sent = len(plain.sizes), int(plain.elements)
        alone, spread = (longest(network.jobs, ranks) + longest(network.carries, ranks) for ranks in (1, p))
        return Check(name, p, Timed(step, alone, spread, sent), seen)

    def costs(self, curvature: EKFAC, speeds: Speeds) -> dict[tuple[str, str, int], Cost]:
        """Of both networks in full width, by (network, link, ranks)."""
        with torch.device("meta"):
            networks = {name: priced(network_of(FULL[name](), curvature), speeds) for name in self.networks}
        every = ((name, link, p) for name in networks for link in LINKS for p in self.ranks)
        return {(name, link.name, p): cost_of(networks[name], curvature, link, p) for name, link, p in every}

    def save(self, text: str, costs: dict[tuple[str, str, int], Cost]) -> None:
        with writing(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        with writing(self.out / "results.md"):
            (self.out / "results.md").write_text(text)
        pictures = [self.out / "scaling.png"]
        if self.write:
            insert(self.write, "scaling", text)
            pictures.append(self.write.parent / "images" / "scaling.png")
        for picture in pictures:
            with writing(picture):
                picture.parent.mkdir(parents=True, exist_ok=True)
                self.figure(costs).savefig(picture, dpi=130)

    def figure(self, costs: dict[tuple[str, str, int], Cost]) -> Figure:
        """What OCNOpt adds to a step over the number of processes."""
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots(1, len(self.networks), squeeze=False)[0]
        for axis, name in zip(axes, self.networks, strict=True):
            for link, colour in zip(LINKS, COLOURS, strict=True):
                every = [costs[name, link.name, p] for p in self.ranks]
                spread, alone = [c.sent + c.spread for c in every], [c.sent + c.alone for c in every]
                axis.plot(self.ranks, [1000 * s for s in spread], color=colour, marker="o", label=link.name)
                axis.plot(self.ranks, [1000 * s for s in alone], color=colour, linestyle=":")
            axis.set(title=name, xlabel="processes", xscale="log", yscale="log")
            axis.set_xticks(self.ranks, [str(p) for p in self.ranks])
            axis.xaxis.minorticks_off()
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:,.0f}")
            axis.yaxis.minorticks_off()
            plain(axis)
        axes[0].set_ylabel("added to a step, ms\n(dotted: each decomposes all)")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
        return figure


def fitted(sums: dict[int, float], ranks: int) -> Link:
    """Latency from the smallest all-reduce, bandwidth from the largest."""
    small, large = min(sums), max(sums)
    volume = 2 * (ranks - 1) / ranks * 4 * (large - small)
    latency = sums[small] / (ranks - 1).bit_length()
    return Link(f"this machine, {ranks} processes", latency, volume / max(sums[large] - sums[small], 1e-9))


if __name__ == "__main__":
    sys.exit(exit_code("scaling", lambda: tyro.cli(Scaling, description=__doc__).run(Console())))
