"""Hardware and versions: without them a number of seconds means nothing."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import psutil
import torch

import ocnopt
from ocnopt_lab.runs.device import title

_CPUINFO = Path("/proc/cpuinfo")


def describe(device: torch.device | None = None) -> dict[str, Any]:
    """Processor, cores, threads, memory and versions of this process, and the device where it is no processor."""
    accelerator = None if device is None else title(device)
    return {
        **({} if accelerator is None else {"device": accelerator}),
        "cpu": _cpu(),
        "cores": psutil.cpu_count(logical=True),
        "threads": torch.get_num_threads(),
        "memory_mb": round(psutil.virtual_memory().total / 1e6),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ocnopt": ocnopt.__version__,
    }


def _cpu() -> str:
    """Model name of the processor."""
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
