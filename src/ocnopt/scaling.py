"""The scale of a loss under torch.amp.GradScaler.

A scaler multiplies the loss, divides p.grad, and calls ``step``; the cotangents that were captured on the way keep
the scale. It tells the scale only to optimizers that divide their gradients themselves
(``_step_supports_amp_scaling``), and these it does not save from steps that overflow. So ``step`` looks who calls it.
"""

from __future__ import annotations

import sys

from torch.amp import GradScaler


def scale_of_caller() -> float:
    """The scale of the gradient scaler whose ``step`` is running, 1 where there is none."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code is not GradScaler.step.__code__:
        frame = frame.f_back  # type: ignore[assignment]
    return 1.0 if frame is None else frame.f_locals["self"].get_scale()
