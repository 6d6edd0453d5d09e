"""The model of costs behind docs/scaling.md: its formulas by hand, and against what two processes count."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cost_model import Job, Link, cost_of, due_together, network_of, plain_step, priced, results_of, statistics_of
from rich.console import Console
from scaling import Scaling, fitted
from scaling_models import Transformer, resnet18
from torch import nn

from ocnopt.curvature import EKFAC


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.LayerNorm(10), nn.Linear(10, 3, bias=False))


def test_formulas_of_a_small_network() -> None:
    """The first player has a matrix and pulls once, the last one once, that between them twice."""
    network = network_of(small(), EKFAC())
    assert (network.turns, network.parameters, len(network.players)) == (3, 120, 3)
    assert plain_step(network).sizes == (1, 9, 1, 4, 4, 2, 70, 20, 20, 30)
    assert statistics_of(network).sizes == (7 * 7 + 10 * 10, 70, 10 * 10 + 3 * 3, 30)
    assert results_of(network.jobs).sizes == (24, 49 + 7 + 100 + 10 + 100 + 10 + 9 + 3)
    assert results_of(network.carries).sizes == (12, 70 + 30)
    terms = [7**3 + 10**3 + 70 * 17, 10**3 + 3**3 + 30 * 13]
    assert [job.n**3 for job in network.carries] == pytest.approx(terms)


def test_large_sides_are_kept_and_priced_as_the_curvature_says() -> None:
    network = network_of(small(), EKFAC(whole=8, max_factor=9, max_blocks=0))
    kinds = [(job.kind, job.n) for job in network.jobs]
    assert kinds == [("basis", 7), ("none", 10), ("none", 10), ("inverse", 3)]
    seconds = [job.seconds for job in priced(network, {8: (8.0, 1.0, 0.0), 100: (1e9, 1e9, 1e9)}).jobs]
    assert seconds == pytest.approx([8 * (7 / 8) ** 3, 0, 0, (3 / 8) ** 3])
    network = network_of(small(), EKFAC(whole=8, max_factor=9))
    assert [job.kind for job in network.jobs] == ["basis", "basis", "inverse", "inverse"]
    assert [job.n**3 for job in network.jobs] == pytest.approx([7**3, 2 * 5**3, 2 * 5**3, 3**3])


def test_a_ring_moves_twice_the_data_and_half_of_the_work_is_half_of_the_time() -> None:
    link = Link("x", latency=1e-3, bandwidth=1e6)
    assert link.seconds(1e6, 1) == 0.0
    assert link.seconds(1e6, 4) == pytest.approx(2e-3 + 2 * 3 / 4 * 4)
    assert fitted({1: 1e-3, 10**6: 1e-3 + 4.0}, 2).bandwidth == pytest.approx(1e6, rel=1e-3)
    network = priced(network_of(small(), EKFAC()), {8: (1.0, 1.0, 1.0)})
    free = Link("free", 0.0, float("inf"))
    one, two, many = (cost_of(network, EKFAC(), free, ranks) for ranks in (1, 2, 64))
    seconds = [[job.seconds for job in jobs] for jobs in (network.jobs, network.carries)]
    total, longest = sum(map(sum, seconds)), sum(map(max, seconds))
    assert one.spread == one.alone == pytest.approx(total / 50)
    assert many.spread == pytest.approx(longest / 50) and one.spread / 2 <= two.spread < one.spread
    assert [(len(jobs), len(after)) for jobs, after in due_together(network, EKFAC(), 1)] == [(2, 1)] * 2
    assert [(len(jobs), len(after)) for jobs, after in due_together(network, EKFAC(), 2)] == [(4, 2)]


def test_slow_links_are_not_used() -> None:
    """Each decomposes all where sending would take longer."""
    network = priced(network_of(small(), EKFAC()), {8: (1.0, 1.0, 1.0)})
    cost = cost_of(network, EKFAC(), Link("slow", 1e3, 1.0), 8)
    assert cost.spread == cost.alone
    assert results_of([Job("basis", 4, 2**23, 1.0)] * 4).sizes == (24, 2**24, 2**24)


def test_the_networks_have_the_sizes_they_are_named_for() -> None:
    with torch.device("meta"):
        counts = [sum(p.numel() for p in make().parameters()) for make in (resnet18, Transformer)]
    assert counts == [11_689_512, 124_439_808]


def test_two_processes_send_what_the_formulas_say(apart: Path) -> None:
    (apart / "page.md").write_text("<!-- begin:scaling -->\n<!-- end:scaling -->\n")
    bench = Scaling(("transformer",), (1, 2), (8, 64), (200.0,), (16, 32), 1, Path("r"), Path("page.md"))
    assert bench.run(Console(quiet=True)) == 0
    text = (apart / "page.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith("| transformer | 2 |"))
    formula, counted = row.strip("| ").split(" | ")[-2:]
    assert formula == counted and int(counted.replace(",", "")) > 100_000
    assert (apart / "images" / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert "| 400 Gbit/s | 64 |" in text
