"""A CUDA device takes the steps of the processor. Skipped where there is none."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ocnopt import OCNOpt

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "adam": {"curvature": "adam"},
    "adam-fixed": {"curvature": "adam", "search": "fixed"},
    "adam-whole": {"curvature": "adam", "search": "fixed", "feedback_samples": None},
    "rmsprop": {"curvature": "rmsprop", "search": "fixed"},
    "kfac": {"curvature": "kfac"},
    "nonlinear": {"rollout": "nonlinear"},
    "off": {"feedback": 0.0},
    "coupled": {"curvature": "sgd", "value": "coupled", "search": "levenberg-marquardt"},
    "stochastic": {"curvature": "sgd", "value": "coupled", "search": "stochastic-levenberg-marquardt"},
}


EIGENBASES = ("default", "nonlinear", "off")
"""With EKFAC a second step depends on eigenvectors that two libraries choose differently where eigenvalues are equal:
on the processor alone, inputs that differ by 1e-13 lead to steps that differ by 5e-4."""


def network() -> nn.Module:
    """Without batch norm, behind which a bias moves by rounding alone under diagonal metrics."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 6, 3, stride=2)
    return nn.Sequential(*convolutions, nn.Tanh(), nn.Flatten(), nn.Linear(54, 10), nn.Tanh(), nn.Linear(10, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(step)
    return torch.randn(32, 1, 8, 8, generator=draws), torch.randint(3, (32,), generator=draws)


def steps(model: nn.Module, options: dict[str, Any], device: str, count: int = 4) -> nn.Module:
    """The model after so many steps. What is drawn is drawn on the processor, and so the same for both."""
    model = copy.deepcopy(model).double().to(device)
    optimizer = OCNOpt(model, **options)

    def closure(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad()
        output = model(x)
        loss = F.cross_entropy(output, y)
        optimizer.backward(loss, output)
        return loss

    for step in range(count):
        x, y = batch(step)
        optimizer.step(partial(closure, x.double().to(device), y.to(device)))
    return model.cpu()


@pytest.mark.parametrize("name", OPTIONS)
def test_a_device_takes_the_steps_of_the_processor(name: str) -> None:
    model = network()
    count = 1 if name in EIGENBASES else 4
    here, there = (steps(model, OPTIONS[name], device, count) for device in ("cpu", "cuda"))
    start = model.double()
    for (label, a), b, p in zip(here.named_parameters(), there.parameters(), start.parameters(), strict=True):
        assert (a - b).norm() <= 1e-6 * (a - p).norm(), label
        assert (a - p).norm() > 0, label


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_autocast_trains_on_a_device(dtype: torch.dtype) -> None:
    model = network().cuda()
    optimizer, scaler = OCNOpt(model), torch.amp.GradScaler("cuda", enabled=dtype is torch.float16)
    x, y = (t.cuda() for t in batch(0))
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype):
            loss = F.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_checkpoints_move_between_devices(tmp_path: Any) -> None:
    model = network().cuda()
    optimizer = OCNOpt(model)

    def train(model: nn.Module, optimizer: OCNOpt, first: int, device: str) -> None:
        for step in range(first, first + 3):
            x, y = (t.to(device) for t in batch(step))
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    train(model, optimizer, 0, "cuda")
    torch.save((model.state_dict(), optimizer.state_dict()), tmp_path / "state.pt")
    weights, state = torch.load(tmp_path / "state.pt", map_location="cpu", weights_only=True)
    other = network()
    other.load_state_dict(weights)
    resumed = OCNOpt(other)
    resumed.load_state_dict(state)
    before = copy.deepcopy(other)
    train(other, resumed, 3, "cpu")
    assert resumed.clock["step"] == 6
    assert all((a - b).norm() > 0 for a, b in zip(other.parameters(), before.parameters(), strict=True) if a.dim() > 1)


@pytest.mark.parametrize("options", [{"curvature": "adam", "search": "fixed", "feedback": 0.0}, {}], ids=["off", "on"])
def test_host_and_device_meet_a_bounded_number_of_times(options: dict[str, Any]) -> None:
    """As torch counts: the check of gradients, and with the search what it decides by; none for each layer."""
    model = network().cuda()
    optimizer = OCNOpt(model, **options)
    counts = []
    for step in range(12):
        x, y = (t.cuda() for t in batch(step))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("synchronizing" in str(w.message) for w in heard))
    assert min(counts) <= (2 if options else 12), counts
