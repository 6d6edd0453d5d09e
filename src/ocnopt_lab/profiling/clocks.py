"""Seconds by phase: one clock for each kind of device."""

from __future__ import annotations

import time
from collections import Counter

import torch


class ProcessorClock:
    """Of what Python waits for. Starts with the first charge, which is for what came before."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()
        self.since: float | None = None

    def charge(self, phase: str) -> None:
        now = time.perf_counter()
        if self.since is not None:
            self.spent[phase] += now - self.since  # type: ignore[assignment]
        self.since = now

    def seconds(self) -> dict[str, float]:
        """Of every phase since the first charge."""
        return dict(self.spent)


class EventClock:
    """Of a device of CUDA, by events in its stream: nothing waits until ``seconds``.

    A device that is done before Python brings more work is charged for its waiting, too.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.marks: list[tuple[str, torch.cuda.Event]] = []

    def charge(self, phase: str) -> None:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        self.marks.append((phase, event))

    def seconds(self) -> dict[str, float]:
        """Waits for the device."""
        torch.cuda.synchronize(self.device)
        spent: dict[str, float] = {}
        for (_, before), (phase, now) in zip(self.marks, self.marks[1:], strict=False):
            spent[phase] = spent.get(phase, 0.0) + before.elapsed_time(now) / 1000  # in milliseconds
        return spent


def clock_on(device: torch.device) -> ProcessorClock | EventClock:
    """The clock for what runs there."""
    return EventClock(device) if device.type == "cuda" else ProcessorClock()
