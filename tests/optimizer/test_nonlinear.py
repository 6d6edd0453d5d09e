"""rollout="nonlinear" in real training steps: what it leaves alone, what it refuses, and that it trains."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
import torch
from optimizer_cases import batch, build, mlp
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ocnopt import OCNOpt
from ocnopt.core.capture import generator_states
from ocnopt.core.record import Recorder, Visit
from ocnopt.core.rollout import Replay
from ocnopt.core.samplewise import KINDS, is_samplewise


class Counting(nn.Module):
    """A buffer that is filled in place, one that is replaced, and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(()))
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last = x.detach().mean()
        self.seen += 1
        return x * (1 + 0.01 * self.calls)


def noisy(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Dropout(0.4), Counting(), nn.Linear(6, 3))
    return nn.Sequential(*layers).to(dtype)


def nonlinear(model: nn.Module, curvature: str = "sgd", search: str = "fixed", **options: Any) -> OCNOpt:
    return build(model, curvature, search, rollout="nonlinear", **options)


def train(model: nn.Module, optimizer: OCNOpt, steps: int = 5, dtype: torch.dtype = torch.float64) -> list[float]:
    losses = []
    for i in range(steps):
        x, y = batch(i, dtype=dtype)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def fallbacks(optimizer: OCNOpt) -> dict[str, int]:
    return {name: n for name, n in optimizer.tally.items() if name.startswith("nonlinear")}


def everything(model: nn.Module) -> dict[str, Tensor]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: x.detach().clone() for name, x in tensors.items()}


def test_a_rollout_leaves_no_trace() -> None:
    model = noisy()
    optimizer = nonlinear(model)
    x, y = batch(0)
    F.cross_entropy(model(x), y).backward()
    held, ids = everything(model), {name: id(b) for name, b in model.named_buffers()}
    rng, hooks = generator_states(), hook_count(model)
    inner, seen = optimizer.rollout.steps, []

    def watched(*args: Any) -> Any:
        steps = inner(*args)
        assert all(torch.equal(a, b) for a, b in zip(held.values(), everything(model).values(), strict=True))
        seen.append({name: id(b) for name, b in model.named_buffers()})
        return steps

    optimizer.rollout.steps = watched
    optimizer.step()
    assert seen == [ids] and not fallbacks(optimizer)
    assert (model[4].seen, int(model[4].calls)) == (1, 1)
    assert all(torch.equal(a, b) for a, b in zip(rng.values(), generator_states().values(), strict=True))
    assert hook_count(model) == hooks


def test_a_rollout_that_breaks_off_leaves_no_trace() -> None:
    model = noisy()
    optimizer = nonlinear(model)
    x, y = batch(0)
    F.cross_entropy(model(x), y).backward()
    held, rng = everything(model), torch.get_rng_state()

    def broken(*args: Any) -> None:
        raise KeyboardInterrupt

    model[5].register_forward_pre_hook(broken)
    with pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(held.values(), everything(model).values(), strict=True))
    assert torch.equal(rng, torch.get_rng_state())
    assert optimizer.rollout.recorder.listener is None


@pytest.mark.parametrize("curvature", ["sgd", "adam", "ekfac"])
@pytest.mark.parametrize("search", ["fixed", "model"])
def test_without_feedback_both_rollouts_are_the_base_optimizer(curvature: str, search: str) -> None:
    models = [mlp(), mlp()]
    for model, rollout in zip(models, ("linear", "nonlinear"), strict=True):
        train(model, build(model, curvature, search, rollout=rollout, feedback=0.0))
    assert all(torch.equal(p, q) for p, q in zip(*(m.parameters() for m in models), strict=True))


def test_with_feedback_they_are_near_each_other_and_not_equal() -> None:
    models = [mlp(), mlp()]
    for model, rollout in zip(models, ("linear", "nonlinear"), strict=True):
        train(model, build(model, "sgd", rollout=rollout), steps=1)
    p, q = (nn.utils.parameters_to_vector(model.parameters()).detach() for model in models)
    assert 1e-9 < float((p - q).norm() / p.norm()) < 1e-2


def test_refuses_accumulated_gradients() -> None:
    model = mlp()
    optimizer = nonlinear(model)
    for i in range(2):
        x, y = batch(i)
        F.cross_entropy(model(x), y).backward()
    before = everything(model)
    with pytest.raises(ValueError, match="accumulated over several"):
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before.values(), everything(model).values(), strict=True))
    optimizer.zero_grad()
    train(model, optimizer, steps=1)


def test_refuses_a_model_called_in_parts() -> None:
    model = mlp()
    optimizer = nonlinear(model)
    x, y = batch(0)
    F.cross_entropy(model[3:](model[:3](x)), y).backward()
    with pytest.raises(ValueError, match="the model itself was not called"):
        optimizer.step()


def test_a_forward_pass_without_backward_is_no_accumulation() -> None:
    model = mlp()
    optimizer = nonlinear(model)
    model(batch(7)[0])
    with torch.no_grad():
        model(batch(8)[0])
    train(model, optimizer, steps=1)
    model(batch(9)[0])
    train(model, optimizer, steps=1)
    assert not fallbacks(optimizer)


class Switching(nn.Module):
    """Runs a layer once only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second, self.runs = nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3), [0]

    def forward(self, x: Tensor) -> Tensor:
        self.runs[0] += 1
        x = self.first(x)
        return self.second(self.act(x) if self.runs[0] % 2 else x)


class Overwriting(nn.Module):
    """Writes over what a module was given, where no derivative needs it any more."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        out = self.act(x)
        x += 1
        return self.second(out + x)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(4, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh()), nn.Linear(3, 3)
        self.reentrant = reentrant

    def forward(self, x: Tensor) -> Tensor:
        return self.last(checkpoint(self.block, self.first(x), use_reentrant=self.reentrant))


@pytest.mark.parametrize(
    "model, reason",
    [
        (Switching(), "replayed differently"),
        (Overwriting(), "lost an input"),
        (Checkpointed(reentrant=True), "missed a call"),
    ],
    ids=lambda x: x if isinstance(x, str) else type(x).__name__,
)
def test_falls_back_to_the_linear_rollout_and_counts_it(model: nn.Module, reason: str) -> None:
    models = [model.double(), copy.deepcopy(model)]
    for m, rollout in zip(models, ("nonlinear", "linear"), strict=True):
        optimizer = build(m, "sgd", rollout=rollout)
        train(m, optimizer, steps=1)
        assert fallbacks(optimizer) == ({f"nonlinear roll-out {reason}": 1} if rollout == "nonlinear" else {})
    assert all(torch.equal(p, q) for p, q in zip(*(m.parameters() for m in models), strict=True))


class Recurrent(nn.Module):
    """Tokens through an embedding, a recurrent player with two outputs, and a keyword argument."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gru, self.head = nn.Embedding(5, 3), nn.GRU(3, 4, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        tokens = (x[:, :1] * torch.arange(3)).long().abs() % 5
        out, last = self.gru(input=self.embed(tokens))
        return self.head(torch.cat([out[:, -1], last[0]], 1) * scale)


@pytest.mark.parametrize(
    "model",
    [noisy(), Recurrent(), Checkpointed(reentrant=False), nn.Linear(4, 3)],
    ids=lambda model: type(model).__name__,
)
@pytest.mark.parametrize("search", ["fixed", "model"])
def test_repeats_the_pass_of_other_models(model: nn.Module, search: str) -> None:
    model = copy.deepcopy(model).double()
    optimizer = nonlinear(model, "adam", search)
    train(model, optimizer)
    assert not fallbacks(optimizer) and optimizer.diagnostics()["steps skipped"] == 0
    assert all(row.feedback for row in optimizer.coverage())


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    front = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten())
    return nn.Sequential(*front, nn.Linear(16, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).double()


def on_images(model: nn.Module, optimizer: OCNOpt) -> nn.Module:
    for i in range(3):
        x, y = batch(i, size=12)
        optimizer.zero_grad()
        F.cross_entropy(model(x.repeat(1, 4).view(12, 1, 4, 4)), y).backward()
        optimizer.step()
    assert not fallbacks(optimizer)
    return model


def test_holds_only_the_samples_that_feedback_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all but the batch norm, which mixes them; and the steps are those with all samples held."""
    held: list[int | None] = []
    honest = Visit.narrow

    def noted(self: Visit, *args: Any) -> None:
        honest(self, *args)
        held.append(self.samples if {len(x) for x in self.inputs} == {self.samples} else None)

    monkeypatch.setattr(Visit, "narrow", noted)
    models = convolutional(), convolutional()
    on_images(models[0], nonlinear(models[0], feedback_samples=5))
    assert held == [5] * 7 * 3
    monkeypatch.setattr(Recorder, "is_samplewise", lambda self, module: False)
    on_images(models[1], nonlinear(models[1], feedback_samples=5))
    assert len(held) == 21
    for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("other", ["nothing", "batch norm", "a hook", "a subclass"])
def test_a_chain_is_repeated_with_those_samples_alone(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless something may need the others."""
    torch.manual_seed(0)
    kind = type("Own", (nn.Sequential,), {}) if other == "a subclass" else nn.Sequential
    between = nn.BatchNorm1d(6) if other == "batch norm" else nn.Tanh()
    model = kind(nn.Sequential(nn.Linear(4, 6), between), nn.Linear(6, 3)).double()
    if other == "a hook":
        between.register_forward_hook(lambda module, args, output: None)
    rows: set[int] = set()
    honest = Replay.after

    def noted(self: Replay, module: nn.Module, output: Tensor) -> None:
        rows.add(len(output))
        honest(self, module, output)

    monkeypatch.setattr(Replay, "after", noted)
    optimizer = nonlinear(model, feedback_samples=5)
    train(model, optimizer, steps=1)
    assert rows == {5 if other == "nothing" else 8} and not fallbacks(optimizer)


def test_a_module_that_mixes_samples_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison above would see it."""
    models = convolutional(), convolutional()
    on_images(models[0], nonlinear(models[0], feedback_samples=5))
    monkeypatch.setattr(Recorder, "is_samplewise", lambda self, module: True)
    on_images(models[1], nonlinear(models[1], feedback_samples=5))
    p, q = (nn.utils.parameters_to_vector(model.parameters()) for model in models)
    assert not torch.allclose(p, q, rtol=1e-8)


@pytest.mark.parametrize("kind", sorted(KINDS, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_kinds_without_parameters_do_not_mix_samples(kind: type[nn.Module]) -> None:
    """Each does to the first samples what it does to them among others, whatever these are; twice the same."""
    options = {nn.Threshold: (0.1, 2.0)}.get(kind, (2,) if "Pool" in kind.__name__ else ())
    module = kind(*options)
    dims = int(kind.__name__[-2]) if "Pool" in kind.__name__ else 2
    x = torch.randn(6, 3, *[4] * dims)
    mixed = torch.cat([x[:2], torch.randn_like(x[2:])])
    assert is_samplewise(module) and not list(module.parameters())
    assert torch.equal(module(x)[:2], module(mixed)[:2]) and torch.equal(module(x)[:2], module(x[:2]))


def test_subclasses_and_replaced_forwards_may_mix_samples() -> None:
    own, replaced = type("Own", (nn.ReLU,), {})(), nn.ReLU()
    replaced.forward = lambda x: x - x.mean(0)  # type: ignore[method-assign]
    assert not is_samplewise(own) and not is_samplewise(replaced) and not is_samplewise(nn.Dropout())
    assert is_samplewise(nn.Flatten()) and not is_samplewise(nn.Flatten(0)) and not is_samplewise(nn.Flatten(-3))


def test_autocast_is_that_of_the_first_pass() -> None:
    model = noisy(torch.float32)
    optimizer = nonlinear(model)
    seen: list[torch.dtype] = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    x, y = batch(0, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    assert seen == [torch.bfloat16] * 2 and not fallbacks(optimizer)


@pytest.mark.parametrize("curvature", ["adam", "ekfac"])
def test_trains_on_digits(curvature: str) -> None:
    x, y = digits()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 10))
    optimizer = OCNOpt(model, curvature=curvature, rollout="nonlinear")
    for i in range(90):
        rows = torch.arange(i * 64, i * 64 + 64) % len(x)
        optimizer.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    assert F.cross_entropy(model(x), y).item() < 0.35
    assert not fallbacks(optimizer)


def digits() -> tuple[Tensor, Tensor]:
    datasets = pytest.importorskip("sklearn.datasets")
    data, target = datasets.load_digits(return_X_y=True)
    return torch.tensor(data, dtype=torch.float32) / 16, torch.tensor(target)


def test_nothing_outlives_a_step() -> None:
    model = noisy()
    optimizer = nonlinear(model, "adam", "model")
    train(model, optimizer, steps=3)
    counts = []
    for _ in range(3):
        train(model, optimizer, steps=4)
        gc.collect()
        counts.append((sum(issubclass(type(x), Tensor) for x in gc.get_objects()), hook_count(model)))
    assert counts[0] == counts[1] == counts[2]
    assert not optimizer.rollout.recorder.records


@pytest.mark.parametrize("backward", [True, False])
def test_graphs_are_freed_without_the_garbage_collector(backward: bool) -> None:
    """A tensor hook that held its tensor would keep the graph of every step: seen to fail with such an Arrival."""
    freed: list[bool] = []

    class Watched(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            ctx.token = Token(freed)
            return x.clone()

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g

    model = mlp()
    optimizer = nonlinear(model)
    gc.collect()
    gc.disable()
    try:
        x, y = batch(0)
        loss = F.cross_entropy(model(Watched.apply(x.requires_grad_())), y)
        if backward:
            loss.backward()
            optimizer.step()
        del loss
        assert freed == [True]
    finally:
        gc.enable()


class Token:
    def __init__(self, freed: list[bool]) -> None:
        self.freed = freed

    def __del__(self) -> None:
        self.freed.append(True)


def hook_count(model: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def test_hooks_can_be_removed_and_copies_are_inert() -> None:
    model = noisy()
    bare = hook_count(model)
    optimizer = nonlinear(model)
    assert hook_count(model) > bare
    twin = copy.deepcopy(model)
    twin(batch(0)[0])
    assert optimizer.rollout.recorder.listener is None and not optimizer.rollout.recorder.records
    optimizer.remove_hooks()
    assert hook_count(model) == bare


def test_survives_a_deepcopy_of_the_optimizer() -> None:
    model = mlp()
    optimizer = nonlinear(model)
    train(model, optimizer, steps=1)
    twin = copy.deepcopy(optimizer)
    train(twin.model, twin, steps=2)
    assert not fallbacks(twin)
