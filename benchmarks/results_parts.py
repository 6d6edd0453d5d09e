"""What the pages under docs/results share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from results_studies import complete

from ocnopt_lab.studies.experiment import Experiment
from ocnopt_lab.studies.summaries import machines, many

NOTHING = "No run of it is complete yet."


def circumstances(studies: Iterable[Experiment]) -> list[str]:
    """Commands and machines of the studies that have runs."""
    done = [(study, results) for study in studies if (results := complete(study))]
    commands = "\n".join(study.command() for study, _ in done)
    every = [result for _, results in done for result in results]
    seeds = sorted({result.seed for result in every})
    return [f"{many(len(every), 'run')}, {many(len(seeds), 'seed')}, by:", f"```bash\n{commands}\n```", machines(every)]


def blocks(parts: Sequence[str]) -> str:
    return "\n\n".join(part for part in parts if part) + "\n"
