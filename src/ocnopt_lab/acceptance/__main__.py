"""Puts contenders to checks and writes an outcome a line: `apart.measure` calls it, with the pairs on stdin."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from ocnopt_lab.acceptance import contenders, suite
from ocnopt_lab.acceptance.check import Bench, judge


def main(out: Path, pairs: Sequence[tuple[str, str]]) -> None:
    """Each outcome is on disk as soon as it is known, so that a check that never ends takes no other with it."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    bench = Bench(list(dict.fromkeys(name for name, _ in pairs)))
    for name, check in pairs:
        outcome = judge(suite.get(check), contenders.get(name), bench)
        with out.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.load(sys.stdin))
