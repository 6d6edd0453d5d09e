"""A profile at one size as tables and as numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ocnopt_lab.profiling.counting import total
from ocnopt_lab.profiling.measuring import Measured
from ocnopt_lab.profiling.memory import Memory
from ocnopt_lab.profiling.phases import BACKWARD, FORWARD, MOVE, PHASES
from ocnopt_lab.profiling.sheets import Sheet
from ocnopt_lab.profiling.timing import Ratio, ratio
from ocnopt_lab.profiling.variants import BASELINE, REFERENCE, WITH, WITHOUT

_COST = (
    *("variant", "ms/step", "x Adam", "95 %", "x AdamW", "95 %", "mean x Adam"),
    *("peak MB", "x Adam", "tensors MB", "x Adam"),
)
_FLOOR = (
    *("variant", "Mflop", "F", "floor, F", "/ floor", "MB", "floor, MB", "/ floor"),
    *("calls", "waits", "floor, ms", "/ floor"),
)


@dataclass(frozen=True)
class Line:
    """One variant: milliseconds per step (median of blocks), ratios to torch's Adam and AdamW, memory in MB.

    The memory of the process is None where it was not measured.
    """

    variant: str
    ms_per_step: float
    time: Ratio
    time_to_adamw: Ratio
    mean_time_ratio: float
    memory: Memory | None
    peak_ratio: float | None
    tensors: float
    tensors_ratio: float

    def cells(self) -> tuple[str, ...]:
        """As text, in the order of the header."""
        return (
            self.variant,
            f"{self.ms_per_step:.2f}",
            *both(self.time),
            *both(self.time_to_adamw),
            f"{self.mean_time_ratio:.2f}",
            "" if self.memory is None else f"{self.memory.peak:.0f}",
            "" if self.peak_ratio is None else f"{self.peak_ratio:.2f}",
            f"{self.tensors:.1f}",
            f"{self.tensors_ratio:.2f}",
        )


@dataclass(frozen=True)
class Distance:
    """One variant beside what it must do, see ``floor``: operations, bytes and milliseconds per step."""

    variant: str
    operations: float
    passes: float
    floor_passes: float
    traffic: float
    floor_traffic: float
    calls: float
    waits: float
    ms: float
    floor_ms: float

    def cells(self) -> tuple[str, ...]:
        return (
            self.variant,
            f"{self.operations / 1e6:.3g}",
            f"{self.passes:.2f}",
            f"{self.floor_passes:.2f}",
            f"{self.passes / self.floor_passes:.2f}",
            f"{self.traffic / 1e6:.2f}",
            f"{self.floor_traffic / 1e6:.2f}",
            f"{self.traffic / self.floor_traffic:.2f}",
            f"{self.calls:.0f}",
            f"{self.waits:.1f}",
            f"{self.floor_ms:.2f}",
            f"{self.ms / self.floor_ms:.2f}",
        )


def both(ratio: Ratio) -> tuple[str, str]:
    return f"{ratio.value:.2f}", f"{ratio.low:.2f}-{ratio.high:.2f}"


def lines(found: Measured) -> list[Line]:
    """The ratios of every variant to the baseline and the reference."""
    blocks, memory, counted = found.blocks, found.memory, found.counted
    first = counted[BASELINE].held
    return [
        Line(
            variant=name,
            ms_per_step=found.ms(name),
            time=ratio(blocks[name], blocks[BASELINE]),
            time_to_adamw=ratio(blocks[name], blocks[REFERENCE]),
            mean_time_ratio=float(blocks[name].mean() / blocks[BASELINE].mean()),
            memory=memory.get(name),
            peak_ratio=memory[name].peak / memory[BASELINE].peak if memory else None,
            tensors=counted[name].held / 1e6,
            tensors_ratio=counted[name].held / first,
        )
        for name in blocks
    ]


def distances(found: Measured) -> list[Distance]:
    """F, the traffic and the time of the model's own passes are those of the baseline."""
    plain, spent = found.counted[BASELINE].phases, found.seconds[BASELINE]
    F, both_passes = plain[FORWARD].operations, plain[FORWARD] + plain[BACKWARD]
    own = both_passes.operations / F
    seconds, update = spent[FORWARD] + spent[BACKWARD], found.seconds[REFERENCE][MOVE]
    out = []
    for name, counted in found.counted.items():
        work, floor = total(counted.phases), counted.floor
        least = 1000 * (seconds * (1 + floor.added / own) + update)
        traffic = work.traffic, both_passes.traffic + floor.bytes
        row = work.operations, work.operations / F, own + floor.added, *traffic, work.calls, work.waits
        out.append(Distance(name, *row, 1000 * sum(found.seconds[name].values()), least))
    return out


def sheets(found: Measured) -> list[Sheet]:
    """Of what a step costs, how far it is from the floor, and by phase."""
    F = found.counted[BASELINE].phases[FORWARD].operations
    seconds = {name: {phase: 1000 * x for phase, x in parts.items()} for name, parts in found.seconds.items()}
    work = {name: counted.phases for name, counted in found.counted.items()}

    def of(measure: Callable[[Any], float]) -> dict[str, dict[str, float]]:
        return {name: {phase: measure(x) for phase, x in parts.items()} for name, parts in work.items()}

    where = found.size.title
    return [
        Sheet(f"Time per step and peak memory, {where}", _COST, [line.cells() for line in lines(found)]),
        Sheet(f"Distance to the floor, {where}", _FLOOR, [line.cells() for line in distances(found)]),
        by_phase(f"Milliseconds by phase, {where}", seconds, ".3f"),
        by_phase(f"Operations by phase, in F, {where}", of(lambda x: x.operations / F), ".3f"),
        by_phase(f"MB read and written by phase, {where}", of(lambda x: x.traffic / 1e6), ".2f"),
        by_phase(f"Calls by phase, {where}", of(lambda x: x.calls), ".1f"),
        by_phase(f"Waits by phase, {where}", of(lambda x: x.waits), ".1f"),
    ]


def by_phase(title: str, table: dict[str, dict[str, float]], form: str) -> Sheet:
    """A row for each variant, a column for each phase that any of them has."""
    seen = {phase for parts in table.values() for phase in parts}
    columns = [*(phase for phase in PHASES if phase in seen), *sorted(seen - set(PHASES))]
    rows = [
        (name, *(format(parts[c], form) if c in parts else "" for c in columns), format(sum(parts.values()), form))
        for name, parts in table.items()
    ]
    return Sheet(title, ("variant", *columns, "all"), rows)


def feedback_told(found: Measured) -> str:
    """EKFAC with feedback over EKFAC without it, both with the model search."""
    if not {WITH, WITHOUT} <= found.blocks.keys():
        return ""
    value, interval = both(ratio(found.blocks[WITH], found.blocks[WITHOUT]))
    return f"EKFAC with feedback takes {value} times the time of EKFAC without ({interval}, 95 %), {found.size.title}."


def to_dict(found: Measured) -> dict[str, Any]:
    """All numbers, with the mean seconds per step of every block."""
    rows, far = lines(found), distances(found)
    return {
        row.variant: {
            **asdict(row),
            "floor": asdict(distance),
            "phases": {
                phase: {"seconds": found.seconds[row.variant].get(phase), **asdict(work)}
                for phase, work in found.counted[row.variant].phases.items()
            },
            "block_seconds": found.blocks[row.variant].tolist(),
        }
        for row, distance in zip(rows, far, strict=True)
    }
