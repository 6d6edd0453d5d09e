"""Trainings on a CUDA device, for ``gpu.py``: networks, optimizers, and what a step takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ocnopt import OCNOpt
from ocnopt_lab.problems.language import Transformers
from ocnopt_lab.problems.residual import resnet18

CHARACTERS, WINDOW = 65, 256
BASELINE = "AdamW (foreach)"
Make = Callable[[nn.Module], torch.optim.Optimizer]


def ours(**options: object) -> Make:
    return lambda model: OCNOpt(model, **options)  # type: ignore[arg-type]


OPTIMIZERS: dict[str, Make] = {
    BASELINE: lambda model: torch.optim.AdamW(model.parameters(), foreach=True),
    "AdamW (fused)": lambda model: torch.optim.AdamW(model.parameters(), fused=True),
    "ocnopt adam, no feedback": ours(curvature="adam", search="fixed", feedback=0.0),
    "ocnopt adam, linear on a sub-batch": ours(curvature="adam", search="fixed"),
    "ocnopt adam, linear": ours(curvature="adam", search="fixed", feedback_samples=None),
    "ocnopt ekfac, no feedback": ours(feedback=0.0),
    "ocnopt default": ours(),
}
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Workload:
    """A network and the batch that it is trained on."""

    title: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    targets: Callable[[], Tensor]


WORKLOADS = {
    "resnet18": Workload(
        "ResNet-18, 512 images of 3x32x32",
        lambda: resnet18((3, 32, 32), 10),
        lambda: torch.randn(512, 3, 32, 32),
        lambda: torch.randint(10, (512,)),
    ),
    "transformer": Workload(
        f"Transformer, 4 blocks of width 448 (9.8 million weights), 64 windows of {WINDOW} characters",
        lambda: Transformers(448, 4, 7)((WINDOW,), CHARACTERS),
        lambda: torch.randint(CHARACTERS, (64, WINDOW)),
        lambda: torch.randint(CHARACTERS, (64, WINDOW)),
    ),
}


class Training:
    """One optimizer on one workload."""

    def __init__(self, workload: Workload, make: Make, precision: str) -> None:
        torch.manual_seed(0)
        self.model = workload.build().cuda()
        self.x, self.y = workload.inputs().cuda(), workload.targets().cuda()
        self.optimizer = make(self.model)
        self.dtype = PRECISIONS[precision]
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.dtype is torch.float16)

    def step(self) -> None:
        self.optimizer.zero_grad()
        with torch.autocast("cuda", self.dtype, enabled=self.dtype is not torch.float32):
            output = self.model(self.x)
        self.scaler.scale(cross_entropy(output.float().flatten(0, -2), self.y.flatten())).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def block(self, steps: int) -> float:
        """Milliseconds of a step."""
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(steps):
            self.step()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / steps

    def meetings(self, steps: int) -> float:
        """How often the host waits for the device in a step, as torch counts it."""
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                for _ in range(steps):
                    self.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return sum("synchronizing" in str(warning.message) for warning in heard) / steps


@dataclass(frozen=True)
class Row:
    name: str
    milliseconds: list[float]
    megabytes: float
    meetings: float
