"""Puts one contender to checks and writes an outcome a line: `python -m ocnopt_lab.acceptance adamw out.jsonl MLP`."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from ocnopt_lab.acceptance import contenders, suite
from ocnopt_lab.acceptance.check import Bench, judge


def main(name: str, out: str, *checks: str) -> int:
    """Each outcome is on disk as soon as it is known, so that a check that never ends takes no other with it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    bench, contender = Bench([name]), contenders.get(name)
    for check in map(suite.get, checks):
        outcome = judge(check, contender, bench)
        with Path(out).open("a") as file:
            file.write(json.dumps({"check": check.name, **asdict(outcome)}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
