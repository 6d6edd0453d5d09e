"""Gradients of an ODE: against torchdiffeq's own adjoint and the written-out steps, and what stands in the way."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torchdiffeq
from ode_nets import EXACT, FINE, Counted, Tanh, batch, flow_map, gradients
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from ocnopt.ode import NeuralODE, SolveError, adjoint, joint
from ocnopt.ode.field import vjp


def of_loss(run: Any, field: nn.Module, x: Tensor) -> list[Tensor]:
    """∂L/∂x(t0) and ∂L/∂θ of a mean squared final state."""
    field.zero_grad()
    x = x.clone().requires_grad_()
    run(x).square().mean().backward()
    return [x.grad, *gradients(field)]  # type: ignore[list-item]


def differs(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((p - q).abs().max()) for p, q in zip(a, b, strict=True))


def test_gradients_are_those_of_torchdiffeq() -> None:
    field, x = Tanh(), batch()

    def theirs(x: Tensor) -> Tensor:
        return torchdiffeq.odeint_adjoint(field, x, torch.tensor([0.0, 1.5]).double(), rtol=1e-9, atol=1e-9)[-1]

    ours = of_loss(NeuralODE(field, 0.0, 1.5, **EXACT), field, x)
    assert differs(ours, of_loss(theirs, field, x)) < 1e-7


@pytest.mark.parametrize("way", [True, False], ids=["adjoint", "autograd"])
@pytest.mark.parametrize("options", [EXACT, FINE], ids=["dopri5", "rk4"])
def test_gradients_are_those_of_a_fine_grid(options: dict[str, Any], way: bool) -> None:
    field, x = Tanh(), batch()
    ours = of_loss(NeuralODE(field, 0.0, 1.5, adjoint=way, **options), field, x)
    assert differs(ours, of_loss(lambda x: flow_map(field, x, 1.5), field, x)) < 1e-7


def flipped(real: Any) -> Any:
    def dynamics(*args: Any) -> Any:
        f = real(*args)
        return lambda t, y: tuple(a if j < args[1] else -a for j, a in enumerate(f(t, y)))

    return dynamics


def no_field_gradient(real: Any) -> Any:
    return lambda dx, inputs, u, again=False: (*real(dx, inputs, u, again)[:1], *(0 * p for p in inputs[1:]))


MUTATIONS = {
    "the sign of the adjoint": (joint, "dynamics", flipped),
    "F_θᵀq": (joint, "vjp", no_field_gradient),
    "the way back begins elsewhere": (joint, "leaves", lambda real: lambda x: real(tuple(0.9 * a for a in x))),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, make = MUTATIONS[name]
    field, x = Tanh(), batch()
    true = of_loss(lambda x: flow_map(field, x, 1.5), field, x)
    monkeypatch.setattr(owner, attribute, make(getattr(owner, attribute)))
    assert differs(of_loss(NeuralODE(field, 0.0, 1.5, **EXACT), field, x), true) > 1e-3


def test_a_gradient_scales_with_the_loss_exactly() -> None:
    """Tolerances are relative to the size of q: a mean over a large batch, or a scaler, must not change the steps."""
    field, x = Tanh(), batch()
    ode = NeuralODE(field, 0.0, 1.5)
    large = of_loss(lambda x: ode(x) * 2.0**12, field, x)
    small = of_loss(lambda x: ode(x) * 2.0**-12, field, x)
    assert all(torch.equal(a, b * 2.0**48) for a, b in zip(large, small, strict=True))


class Pair(nn.Module):
    """Two coupled tensors, one without a dimension of features."""

    def __init__(self) -> None:
        super().__init__()
        self.f = Tanh(3)

    def forward(self, t: Tensor, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        a, b = x
        both = self.f(t, torch.cat([a, b[:, None]], dim=1))
        return both[:, :2], both[:, 2] * a[:, 0]


def test_a_tuple_is_a_state() -> None:
    field, x = Pair(), batch()
    found = {}
    for way in (True, False):
        y = x.clone().requires_grad_()
        field.zero_grad()
        a, b = NeuralODE(field, adjoint=way, **EXACT)((y[:, :2], y[:, 2]))
        (a.square().sum() + (b * a[:, 1]).sum()).backward()
        found[way] = [y.grad, *gradients(field)]
    assert differs(found[True], found[False]) < 1e-5  # type: ignore[arg-type]


def test_two_blocks_that_share_a_field_add_up() -> None:
    field, x = Tanh(), batch()
    two = nn.Sequential(NeuralODE(field, 0.0, 0.7, **EXACT), NeuralODE(field, 0.7, 1.5, **EXACT))
    assert differs(of_loss(two, field, x), of_loss(lambda x: flow_map(field, x, 1.5, 128), field, x)) < 1e-7


def test_what_needs_no_gradient_gets_none() -> None:
    field, x = Tanh(), batch()
    whole = of_loss(NeuralODE(field, **EXACT), field, x)
    field.zero_grad()
    NeuralODE(field, **EXACT)(x).square().mean().backward()  # the input needs none
    assert differs(gradients(field), whole[1:]) < 1e-7
    field.zero_grad()
    field.inner.weight.requires_grad_(False)
    part = of_loss(NeuralODE(field, **EXACT), field, x)
    assert field.inner.weight.grad is None
    assert differs(part, [whole[0], *whole[2:]]) < 1e-7
    field.requires_grad_(False)
    alone = of_loss(NeuralODE(field, **EXACT), field, x)
    assert differs(alone, whole[:1]) < 1e-7
    assert not NeuralODE(field)(x).requires_grad


def test_a_graph_that_is_kept_gives_the_same_again() -> None:
    field, x = Tanh(), batch()
    loss = NeuralODE(field)(x).square().mean()
    loss.backward(retain_graph=True)
    first = gradients(field)
    field.zero_grad()
    loss.backward()
    assert differs(first, gradients(field)) == 0.0


def test_float32_and_autocast() -> None:
    field, x = Tanh().float(), batch().float()
    ode = NeuralODE(field)
    single = of_loss(ode, field, x)
    assert {g.dtype for g in single} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        out = ode(x.bfloat16())
        half = of_loss(ode, field, x)  # backward inside autocast: casts made without gradients must not serve here
    assert out.dtype == torch.float32
    assert 0 < differs(single, half) < 0.05
    with pytest.raises(ValueError, match="bfloat16; a solver needs float32"):
        ode(x.bfloat16())


def test_second_derivatives_are_refused() -> None:
    x = batch().requires_grad_()
    with pytest.raises(RuntimeError, match="adjoint=False"):
        torch.autograd.grad(NeuralODE(Tanh())(x).sum(), x, create_graph=True)
    (g,) = torch.autograd.grad(NeuralODE(Tanh(), adjoint=False)(x).sum(), x, create_graph=True)
    assert g.requires_grad


def test_evaluations_are_counted() -> None:
    field, x = Counted(Tanh()), batch()
    ode = NeuralODE(field)
    ode(x).sum().backward()
    field.calls = 0
    ode.total.reset()
    seen = []
    for _ in range(2):
        ode(x).sum().backward()
        seen.append(ode.nfe_forward + ode.nfe_backward)
    assert seen[0] == seen[1] > 12
    assert field.calls == sum(seen) == ode.total.forward + ode.total.backward
    plain = NeuralODE(field, adjoint=False)
    plain(x).sum().backward()
    assert plain.nfe_forward > 6 and plain.nfe_backward == 0


def test_memory_does_not_grow_with_the_number_of_steps() -> None:
    """What a forward pass keeps for its backward pass, in bytes, and the other way for comparison."""
    x = batch(64)

    def kept(steps: int, way: bool) -> int:
        held: dict[int, int] = {}

        def pack(t: Tensor) -> Tensor:
            held[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        ode = NeuralODE(Tanh(), solver="rk4", options={"step_size": 1 / steps}, adjoint=way)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            ode(x.clone().requires_grad_())
        return sum(held.values())

    assert kept(100, True) <= 1.05 * kept(10, True)
    assert kept(100, False) > 5 * kept(10, False)


def most_alive(steps: int, way: bool) -> int:
    """The most activations that are in memory together at any evaluation of the field, there and back."""
    alive: list[StorageWeakRef] = []
    most = 0

    class Watched(Tanh):
        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            nonlocal alive, most
            h = torch.tanh(self.inner(torch.cat([x, t.expand(len(x), 1)], dim=1)))
            alive = [a for a in alive if not a.expired()] + [StorageWeakRef(h.untyped_storage())]
            most = max(most, len(alive))
            return self.outer(h)

    ode = NeuralODE(Watched(), solver="rk4", options={"step_size": 1 / steps}, adjoint=way)
    ode(batch()).sum().backward()
    return most


def test_memory_of_the_backward_pass_does_not_grow_either() -> None:
    assert 0 < most_alive(50, True) <= 1.05 * most_alive(5, True)
    assert most_alive(50, False) > 5 * most_alive(5, False)


class Steep(nn.Module):
    """dx/dt = s x², which ends at t = 1 / (s x)."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale).double())

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.scale * x.square()


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("underflow in dt", {}),
        ("max_num_steps exceeded", {"options": {"max_num_steps": 5}}),
        ("the state is not finite", {"solver": "euler", "options": {"step_size": 1e-3}}),
    ],
)
@pytest.mark.parametrize("way", [True, False], ids=["adjoint", "autograd"])
def test_a_solve_that_does_not_end_is_one_error(reason: str, options: dict[str, Any], way: bool) -> None:
    with pytest.raises(SolveError, match=reason) as caught:
        NeuralODE(Steep(2.0), adjoint=way, **options)(torch.ones(2, 1).double())
    assert "at t = " in str(caught.value) and "norm of the state" in str(caught.value)


class Bad(nn.Module):
    """One of several fields that no solver can integrate."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.drop, self.layer = kind, nn.Dropout(0.5), nn.Linear(3, 3).double()

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        if self.kind == "in place":
            return self.layer(x.add_(1.0))
        if self.kind == "shape":
            return self.layer(x)[:, :2]
        return self.layer(self.drop(x))


@pytest.mark.parametrize("way", [True, False], ids=["adjoint", "autograd"])
@pytest.mark.parametrize(
    ("kind", "message"),
    [("in place", "writes into its state"), ("shape", "shaped like x"), ("noise", "not deterministic")],
)
def test_fields_that_cannot_be_integrated(kind: str, message: str, way: bool) -> None:
    ode = NeuralODE(Bad(kind), adjoint=way)
    for _ in range(2):  # and not only once
        with pytest.raises(ValueError, match=message):
            ode(batch())
    if kind == "noise":
        ode.eval()(batch())


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: NeuralODE(Tanh(), 1.0, 1.0), ValueError, "needs t0 < t1"),
        (lambda: NeuralODE(Tanh(), 1.0, math.nan), ValueError, "needs t0 < t1"),
        (lambda: NeuralODE(Tanh(), solver="dopri"), ValueError, "'dopri' is not known; choose one of 'dopri5'"),
        (lambda: NeuralODE(Tanh(), solver="scipy_solver"), ValueError, "has no gradient"),
        (lambda: NeuralODE(Tanh(), rtol=0.0), ValueError, "rtol=0.0"),
        (lambda: NeuralODE(Tanh(), rule="simpson"), ValueError, "'simpson'. is not known"),
        (lambda: NeuralODE(Tanh(), rule="trapezoid", nodes=1), ValueError, "take 2 or more"),
        (lambda: NeuralODE(lambda t, x: x), TypeError, "nn.Module"),
        (lambda: NeuralODE(Tanh())([1.0]), TypeError, "not list"),
        (lambda: NeuralODE(Tanh())(torch.ones(2, 3, dtype=torch.int64)), ValueError, "float32 or float64"),
    ],
)
def test_arguments_that_make_no_sense(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


def test_without_torchdiffeq_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match=r'pip install "ocnopt\[ode\]"'):
        NeuralODE(Tanh())


def test_copies_and_saved_states() -> None:
    field, x = Tanh(), batch()
    ode = NeuralODE(field)
    other = NeuralODE(Tanh(seed=5))
    other.load_state_dict(ode.state_dict())
    assert torch.equal(copy.deepcopy(ode)(x), other(x))


def test_a_field_that_ignores_its_state() -> None:
    class Drift(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.ones(3).double())

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return self.rate.expand_as(x)

    field, x = Drift(), batch().requires_grad_()
    NeuralODE(field, 0.0, 2.0)(x).sum().backward()
    torch.testing.assert_close(field.rate.grad, torch.full((3,), 2.0 * len(x)).double())
    torch.testing.assert_close(x.grad, torch.ones_like(x))


def test_a_vjp_of_nothing_is_zero() -> None:
    x = torch.ones(2, requires_grad=True)
    (g,) = vjp((torch.ones(2),), (x,), (torch.ones(2),))
    assert torch.equal(g, torch.zeros(2))
    assert adjoint.Stash().take() == []
