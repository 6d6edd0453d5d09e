"""One test for each item of the bar, for OCNOpt's curvatures, values and roll-outs, and for AdamW as the control.

All combinations are measured by benchmarks/compatibility.py, whose page tests/docs/test_compatibility.py looks at.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from suite_cases import ALL, EACH_CURVATURE, SABOTAGE

from ocnopt_lab.acceptance import processes, suite
from ocnopt_lab.acceptance.check import Bench, Check, judge
from ocnopt_lab.acceptance.contenders import BROKEN, CONTROL, OURS, get

SLOW = {"torch.compile"}
"""What takes seconds, and does not depend on value and roll-out but for what the others see as well."""

CASES = [(check, name) for check in suite.CHECKS for name in (EACH_CURVATURE if check.name in SLOW else ALL)]


@pytest.fixture(scope="module")
def bench(ranks: Path) -> Iterator[Bench]:
    """One for all. Trainers collect garbage after every run, and would look through all that was imported each time."""
    for check in suite.CHECKS:
        if not check.missing():
            list(map(import_module, check.needs))
    gc.freeze()
    bench = Bench(ALL)
    bench.found = processes.read(ranks)
    yield bench
    gc.unfreeze()


@pytest.mark.parametrize(("check", "name"), CASES, ids=lambda x: x.name if isinstance(x, Check) else x)
def test_check(check: Check, name: str, bench: Bench) -> None:
    contender = get(name)
    outcome = judge(check, contender, bench)
    if outcome.status == "missing":
        pytest.skip(outcome.note)
    expected = "refused" if check.name in contender.refuses else "passed"
    assert outcome.status == expected, f"What a user sees: {check.symptom}\n{outcome.note}\n{outcome.trace}"


@pytest.mark.parametrize("check", suite.CHECKS, ids=lambda check: check.name)
def test_a_broken_optimizer_is_seen(check: Check, bench: Bench) -> None:
    outcome = judge(check, BROKEN[SABOTAGE.get(check.name, "idle")], bench)
    if outcome.status == "missing":
        pytest.skip(outcome.note)
    assert outcome.status == "failed"
    assert outcome.note


def test_no_check_stands_twice() -> None:
    assert len({check.name for check in suite.CHECKS}) == len({check.symptom for check in suite.CHECKS}) == 23


def test_every_combination_is_a_contender() -> None:
    assert len(OURS) == 20 and set(ALL) - {CONTROL} <= OURS.keys()
