"""Where a run trains."""

from __future__ import annotations

import torch

from ocnopt_lab.errors import LabError


def require_device(name: str) -> None:
    """A sentence for a device that there is not."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch has one for each way to be wrong
        told = str(error).splitlines()[0].rstrip(".")
        raise LabError(f"--device is {name!r}, and torch cannot use it ({told}); choose cpu, or one it can.") from error


def title(device: torch.device) -> str | None:
    """What the manufacturer calls it; None for the processor, which is named elsewhere."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None
