"""Every player against torch's own differentiation of the module's forward pass, in float64."""

from __future__ import annotations

import copy
import itertools
from functools import partial
from typing import Any

import pytest
import torch
from player_cases import CASES, Case, Mixing
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils._pytree import tree_leaves, tree_map

from ocnopt.core.trajectory import Call, joined
from ocnopt.players import ModulePlayer, Refusal, find

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)


class Record:
    """One forward call of a module, the call as capture would store it, and its player."""

    def __init__(self, module: nn.Module, args: tuple[Any, ...], tolerance: float = 1e-10, **kwargs: Any) -> None:
        self.module, self.args, self.kwargs = module, args, kwargs
        self.close = partial(torch.testing.assert_close, rtol=tolerance, atol=tolerance)
        self.names = tuple(name for name, p in module._parameters.items() if p is not None and p.requires_grad)
        self.rng = torch.get_rng_state()
        leaves = self.outputs(copy.deepcopy(module))
        self.call = Call(args, self.kwargs, tuple(x.shape for x in leaves), sweep=0, order=0, rng={"cpu": self.rng})
        self.player = find(module, self.names)
        self.like = joined(leaves, self.call.sizes).detach()

    def outputs(self, module: nn.Module) -> list[Tensor]:
        torch.set_rng_state(self.rng)
        return [x for x in tree_leaves(module(*self.args, **self.kwargs)) if x.requires_grad]

    def graph(self) -> tuple[Tensor, tuple[Tensor, ...]]:
        """h and θ of an untouched copy, connected by autograd."""
        module = copy.deepcopy(self.module)
        h = joined(self.outputs(module), self.call.sizes)
        return h, tuple(getattr(module, name) for name in self.names)

    def cotangents(self, rank: int, seed: int = 2) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(rank, *self.like.shape, generator=generator, dtype=self.like.dtype)

    def direction(self) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(3)
        return tuple(torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in self.player.parameters)


def dot(a: Any, b: Any) -> Tensor:
    return sum((x * y).sum() for x, y in zip(a, b, strict=True) if x is not None)


def record(case: Case) -> Record:
    return Record(case.module(), case.args(), case.tolerance)


@pytest.fixture(params=CASES, ids=lambda case: case.id)
def met(request: pytest.FixtureRequest) -> Record:
    return record(request.param)


@pytest.fixture(params=[c for c in CASES if record(c).player.is_matrix], ids=lambda case: case.id)
def matrix(request: pytest.FixtureRequest) -> Record:
    return record(request.param)


def test_pull(met: Record) -> None:
    (u,) = met.cotangents(1)
    h, θ = met.graph()
    close(met.player.pull(met.call, u), torch.autograd.grad((h * u).sum(), θ))


def test_tangent(met: Record) -> None:
    """Row by row of the Jacobian, by reverse passes alone."""
    d = met.direction()
    h, θ = met.graph()
    rows = [dot(torch.autograd.grad(x, θ, retain_graph=True, allow_unused=True), d) for x in h.flatten()]
    met.close(met.player.tangent(met.call, d), torch.stack(rows).view_as(h))


def test_adjoint(met: Record) -> None:
    (u,), d = met.cotangents(1), met.direction()
    met.close((u * met.player.tangent(met.call, d)).sum(), dot(met.player.pull(met.call, u), d))


def test_sample_pull(met: Record) -> None:
    U = met.cotangents(2)
    h, θ = met.graph()
    products = met.player.sample_pull(met.call, U)
    for r, i in itertools.product(range(2), range(len(h))):
        close(tuple(p[r, i] for p in products), torch.autograd.grad(h[i], θ, U[r, i], retain_graph=True))


def test_samples_sum_to_pull(met: Record) -> None:
    U = met.cotangents(2)
    for r, u in enumerate(U):
        close(tuple(p.sum(1)[r] for p in met.player.sample_pull(met.call, U)), met.player.pull(met.call, u))


def test_rows_meet_in_pull(matrix: Record) -> None:
    player, call, U = matrix.player, matrix.call, matrix.cotangents(2)
    for rows, u in zip(player.outputs(call, U), U, strict=True):
        close(player.to_matrix(player.pull(call, u)), torch.einsum("gbpo,gbpi->goi", rows, player.inputs(call)))


def test_matrix_acts_as_tangent(matrix: Record) -> None:
    player, call, d, U = matrix.player, matrix.call, matrix.direction(), matrix.cotangents(2)
    rows = torch.einsum("goi,gbpi->gbpo", player.to_matrix(d), player.inputs(call))
    responses = torch.einsum("rgbpo,gbpo->rb", player.outputs(call, U), rows)
    close((U * player.tangent(call, d)).flatten(2).sum(2), responses)


def test_matrix_round_trip(matrix: Record) -> None:
    player, d = matrix.player, matrix.direction()
    close(player.from_matrix(player.to_matrix(d)), d)
    stacked = tuple(torch.stack([t, 2 * t]).unsqueeze(0) for t in d)
    close(player.from_matrix(player.to_matrix(stacked)), stacked)


def test_part_of_a_batch(met: Record) -> None:
    """Capture may keep the inputs of the first few samples only, sizes being those of the whole call."""
    part = met.player.head(met.call, 2)
    if part is met.call:
        pytest.skip("needs the inputs of all samples")
    U, d = met.cotangents(2), met.direction()
    close(met.player.tangent(part, d), met.player.tangent(met.call, d)[:2])
    samples = tuple(p[:, :2] for p in met.player.sample_pull(met.call, U))
    close(met.player.sample_pull(part, U[:, :2]), samples)
    close(met.player.pull(part, U[0, :2]), tuple(p[0].sum(0) for p in samples))


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Everything a forward pass could leave behind: tensors by value, attributes by identity."""
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    return {"state": state, "attributes": {n: id(v) for n, v in vars(module).items()}, "rng": torch.get_rng_state()}


def test_nothing_is_left_behind(met: Record) -> None:
    before, args = snapshot(met.module), copy.deepcopy(met.args)
    (u,), d = met.cotangents(1), met.direction()
    results = products(met.player, met.call, u.unsqueeze(0), d)
    after = snapshot(met.module)
    assert before["attributes"] == after["attributes"]
    close(after["state"], before["state"], rtol=0, atol=0)
    assert torch.equal(before["rng"], after["rng"])
    close(met.args, args, rtol=0, atol=0)
    assert all(p.grad is None for p in met.module.parameters())
    assert not any(result.requires_grad for result in results)
    copy.deepcopy(met.module)


def products(player: ModulePlayer, call: Call, U: Tensor, d: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (player.tangent(call, d), *player.pull(call, U[0]), *player.sample_pull(call, U))


def raised(x: Any) -> Any:
    return x.double() if isinstance(x, Tensor) and x.is_floating_point() else x


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16], ids=["autocast", "bfloat16"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_bfloat16_is_raised_to_float32(case: Case, parameters: torch.dtype) -> None:
    """The same rounded numbers in float64 are the reference."""
    module, args = case.module(parameters), case.args(torch.bfloat16)
    exact = Record(copy.deepcopy(module).double(), tree_map(raised, args))
    call = Call(args, {}, exact.call.sizes, sweep=0, order=0, rng=exact.call.rng)
    U, d = exact.cotangents(2).bfloat16(), tuple(t.bfloat16() for t in exact.direction())
    ours = products(find(module, exact.names), call, U, d)
    theirs = products(exact.player, exact.call, U.double(), tuple(map(raised, d)))
    assert all(tensor.dtype == torch.float32 for tensor in ours)
    torch.testing.assert_close(tuple(map(raised, ours)), theirs, rtol=1e-3, atol=1e-3)


class Doubled(nn.Linear):
    """Overrides what it computes: not a linear layer to us."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Standardised(nn.Conv2d):
    """Replaces the part of the computation that nn.Conv2d.forward delegates to."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean(), bias)


class Renamed(nn.Linear):
    """Only initialises differently."""


def patched() -> nn.Module:
    module = nn.Linear(3, 2)
    module.forward = lambda x: nn.Linear.forward(module, x).sin()
    return module


def kind(player: ModulePlayer | Refusal) -> str:
    return type(player).__name__


def owned(module: nn.Module) -> tuple[str, ...]:
    return tuple(name for name, _ in module.named_parameters(recurse=False))


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        (lambda: Renamed(3, 2), "LinearPlayer"),
        (lambda: Doubled(3, 2), "GenericPlayer"),
        (lambda: Standardised(2, 3, 3), "GenericPlayer"),
        (lambda: nn.PReLU(), "GenericPlayer"),
        (patched, "GenericPlayer"),
    ],
)
def test_who_serves(factory: Any, expected: str) -> None:
    module = factory()
    assert kind(find(module, owned(module))) == expected


def test_overridden_forward_is_differentiated_as_it_is() -> None:
    met = Record(Doubled(3, 2).double(), (torch.randn(4, 3, dtype=torch.float64),))
    (u,) = met.cotangents(1)
    h, θ = met.graph()
    close(met.player.pull(met.call, u), torch.autograd.grad((h * u).sum(), θ))


def weight_normed(new: bool) -> nn.Module:
    if new:
        return nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(3, 2))


@pytest.mark.parametrize(
    "factory",
    [
        lambda: nn.MultiheadAttention(4, 2),
        lambda: weight_normed(new=True),
        lambda: weight_normed(new=True).parametrizations.weight,
        lambda: weight_normed(new=False),
        lambda: nn.utils.spectral_norm(nn.Linear(3, 2)),
        lambda: prune.random_unstructured(nn.Linear(3, 2), "weight", 0.5),
        lambda: nn.Embedding(6, 3, max_norm=1.0),
        lambda: nn.Embedding(6, 3, sparse=True),
        lambda: nn.EmbeddingBag(6, 3, scale_grad_by_freq=True),
        lambda: nn.GRU(3, 4),
        lambda: nn.SyncBatchNorm(3),
    ],
)
def test_refusals_are_sentences(factory: Any) -> None:
    module = factory()
    refusal = find(module, owned(module))
    assert isinstance(refusal, Refusal)
    assert refusal.reason.endswith(".") and len(refusal.reason.split()) > 5


def test_keyword_calls() -> None:
    x = torch.randn(4, 3)
    linear = nn.Linear(3, 2)
    player, u = find(linear, ("weight",)), torch.randn(4, 2)
    by_keyword = Call((), {"input": x}, (u.shape,), sweep=0, order=0)
    close(player.pull(by_keyword, u), (u.T @ x,), rtol=1e-6, atol=1e-6)
    mixing = Record(Mixing().double(), (x.double(),), gain=3.0)
    (u,), (h, θ) = mixing.cotangents(1), mixing.graph()
    close(mixing.player.pull(mixing.call, u), torch.autograd.grad((h * u).sum(), θ))


def test_hooks_are_not_run_again() -> None:
    met = record(next(case for case in CASES if case.id == "noisy-scale"))
    met.module.register_forward_hook(lambda *_: pytest.fail("a recomputation was seen as a call"))
    met.player.pull(met.call, met.like)


def test_unused_parameter_gets_zeros() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.idle = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    x = torch.randn(4, 3)
    player, call = find(Idle(), ("idle",)), Call((x,), {}, (x.shape,), sweep=0, order=0)
    close(player.pull(call, x), (torch.zeros(2),))
    close(player.sample_pull(call, x[None]), (torch.zeros(1, 4, 2),))
    close(player.tangent(call, (torch.ones(2),)), torch.zeros(4, 3))
