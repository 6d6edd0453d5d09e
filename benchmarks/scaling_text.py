"""The tables of the page on scaling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from cost_model import Cost, Link, Speeds
from scaling_runs import Timed

from ocnopt_lab.runs import environment


@dataclass(frozen=True)
class Check:
    """One network on so many processes: what the model says, and what was measured."""

    name: str
    processes: int
    predicted: Timed
    seen: Timed


def machine(load: float) -> str:
    """Hardware and versions, and how busy the machine was."""
    env = environment.describe()
    versions = f"Python {env['python']}, torch {env['torch']}, ocnopt {env['ocnopt']}"
    return (
        f"{env['cpu']}, {env['cores']} cores, gloo, one thread per process; {versions}. The shortest of several "
        f"measurements; load of the machine at their end, by other work too: {load:.1f}."
    )


def constants(links: dict[int, Link], speeds: Speeds) -> str:
    """What was measured of the two parts of the model by themselves."""
    sums = [f"| {p} | {1e6 * x.latency:.0f} | {x.bandwidth / 1e9:.2f} |" for p, x in links.items()]
    rows = [
        f"| {n} | {' | '.join(f'{1000 * s:.3f} | {1e9 * s / n**3:.3f}' for s in seconds)} |"
        for n, seconds in speeds.items()
    ]
    first = ["| processes | latency, µs | bandwidth, GB/s |", "|---:|---:|---:|", *sums]
    head = "| n | eigenbasis, ms | ns per n³ | inverse, ms | ns per n³ | product, ms | ns per n³ |"
    return "\n".join([*first, "", head, "|" + "---:|" * 7, *rows])


def check_table(checks: Sequence[Check]) -> str:
    """Predicted and measured, narrow networks."""
    head = (
        "| network | processes | step, ms: predicted | measured | all decompositions by each, processor ms: predicted "
        "| measured | spread, processor ms of the busiest: predicted | measured "
        "| elements sent by a plain step: formula | counted |"
    )
    lines = [head, "|---|" + "---:|" * 9, *map(check_line, checks)]
    several = [check for check in checks if check.processes > 1]
    steps = told([check.predicted.step / check.seen.step for check in several])
    spread = told([check.predicted.spread / check.seen.spread for check in several])
    note = f"Predicted over measured on more than one process: steps {steps}, spread decompositions {spread}."
    return "\n".join([*lines, "", note])


def told(ratios: list[float]) -> str:
    return f"from {min(ratios):.2f} to {max(ratios):.2f}, median {median(ratios):.2f}"


def check_line(check: Check) -> str:
    a, b = check.predicted, check.seen
    times = [(a.step, b.step), (a.alone, b.alone), (a.spread, b.spread)]
    cells = [f"{1000 * x:.1f}" for pair in times for x in pair]
    return f"| {check.name} | {check.processes} | {' | '.join(cells)} | {a.counts[1]:,} | {b.counts[1]:,} |"


def cost_tables(costs: dict[tuple[str, str, int], Cost], ranks: Sequence[int], step_ms: dict[str, float]) -> str:
    """Predictions for the networks in full width, one table for each."""
    head = (
        "| link | processes | gradients, ms | sums of OCNOpt, ms | decompositions by each, ms | spread, ms "
        "| step over that of AdamW |"
    )
    blocks = []
    for name, own in step_ms.items():
        links = dict.fromkeys(link for network, link, _ in costs if network == name)
        rows = [cost_line(link, p, costs[name, link, p], own) for link in links for p in ranks]
        told = f"**{name}**, {own:g} ms assumed for forward, backward and update; milliseconds are means per step."
        blocks += [told, "\n".join([head, "|---|" + "---:|" * 6, *rows])]
    return "\n\n".join(blocks)


def cost_line(link: str, ranks: int, cost: Cost, own: float) -> str:
    times = [1000 * x for x in (cost.gradients, cost.sent, cost.alone, cost.spread)]
    ratio = 1 + (times[1] + times[3]) / (own + times[0])
    return f"| {link} | {ranks:,} | {' | '.join(f'{t:.1f}' for t in times)} | {ratio:.2f} |"
