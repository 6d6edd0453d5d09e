"""Peak memory of this process, in MB (10^6 bytes), during a stretch of the program."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_MB = 1e6


def resident() -> float:
    """Memory resident now, MB."""
    return psutil.Process().memory_info().rss / _MB


def peak() -> float:
    """Highest resident memory since the start or the last `reset_peak`, MB.

    `ru_maxrss` alone misleads on Linux: a child process inherits the peak of the parent that forked it.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / _MB
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MB


def reset_peak() -> None:
    """Starts `peak` anew where the kernel allows it; elsewhere the peak stays that of the whole process."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return


class StepMemory:
    """Peak over the training steps only: loading, evaluation and checkpoints are left out."""

    def __init__(self) -> None:
        self.start = resident()
        self.peak = self.start

    def resume(self) -> None:
        """Call before a stretch of steps."""
        reset_peak()

    def pause(self) -> None:
        """Call after a stretch of steps."""
        self.peak = max(self.peak, peak())

    @property
    def growth(self) -> float:
        """MB over what was resident before the first step."""
        return self.peak - self.start


class DeviceMemory:
    """The same of what tensors hold on a device of CUDA, which is nobody else's."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.peak = device, 0.0
        self.start = torch.cuda.memory_allocated(device) / _MB

    def resume(self) -> None:
        torch.cuda.reset_peak_memory_stats(self.device)

    def pause(self) -> None:
        self.peak = max(self.peak, torch.cuda.max_memory_allocated(self.device) / _MB)

    @property
    def growth(self) -> float:
        return self.peak - self.start


def memory_on(device: torch.device) -> StepMemory | DeviceMemory:
    """What measures the memory that training on the device takes."""
    return DeviceMemory(device) if device.type == "cuda" else StepMemory()
