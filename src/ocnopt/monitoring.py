"""The diagnostics of a training in TensorBoard, or in anything else that takes scalars."""

from __future__ import annotations

from typing import Any, Protocol

from .optim import OCNOpt


class Writer(Protocol):
    """``torch.utils.tensorboard.SummaryWriter``, and what is called like it."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> Any: ...


class DiagnosticsLog:
    """Hooks around the steps of an optimizer. ``remove`` takes them off."""

    def __init__(self, optimizer: OCNOpt, writer: Writer, every: int, prefix: str) -> None:
        self.writer, self.every, self.prefix = writer, every, prefix
        self.written = optimizer.diagnostics().get("observed step")
        self.handles = [
            optimizer.register_step_pre_hook(self.before),
            optimizer.register_step_post_hook(self.after),
        ]

    def before(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Ask for the coming step, where it is one of those."""
        if optimizer.clock.get("step", 0) % self.every == 0:
            optimizer.observe()

    def after(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """Write the step, where it was looked into and not written yet."""
        if optimizer.seen.get("observed step") == self.written:
            return
        numbers = optimizer.diagnostics()
        self.written = numbers["observed step"]
        for name, number in numbers.items():
            self.writer.add_scalar(f"{self.prefix}{name}", number, global_step=int(self.written))

    def remove(self) -> None:
        while self.handles:
            self.handles.pop().remove()


def log_diagnostics(optimizer: OCNOpt, writer: Writer, every: int = 100, prefix: str = "ocnopt/") -> DiagnosticsLog:
    """Write all numbers of ``optimizer.diagnostics()`` in the first step and every ``every``-th after it.

    optimizer: whose steps are observed at those times.  writer: gets ``add_scalar(prefix + name, number, step)``.
    Returns a handle with ``remove()``. Steps that somebody else asked to observe are written, too.
    Raises ValueError for a period below 1.
    """
    if every < 1:
        raise ValueError(f"every={every} must be a whole number of steps, 1 or more.")
    return DiagnosticsLog(optimizer, writer, every, prefix)
