"""End times as controls: their gradient, curvature, feedback, bounds and period."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from ode_nets import FINE, Tanh, batch, flow_map
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.core.trajectory import Call
from ocnopt.curvature import EKFAC, KFAC, factors
from ocnopt.ode import NeuralODE, TerminalTime, time_curvature, times
from ocnopt.ode.times import TimePlayer
from ocnopt.players import find


def phi(x: Tensor) -> Tensor:
    """A loss with a curvature of its own."""
    return (x.square().sum(1) + x[:, 0].sin()).mean()


def loss_of(t0: float, t1: float, field: nn.Module | None = None) -> Tensor:
    """φ(x(t1)) from x(t0) on, by steps that are written out."""
    own = field or Tanh()
    return phi(flow_map(lambda t, x: own(t + t0, x), batch(), t1 - t0))  # type: ignore[arg-type]


def timed(T: float = 1.2, t0: float = 0.3, **options: Any) -> NeuralODE:
    return NeuralODE(Tanh(), TerminalTime(t0, high=0.5).double(), TerminalTime(T).double(), **{**FINE, **options})


@pytest.mark.parametrize("way", [True, False], ids=["adjoint", "autograd"])
def test_gradients_of_both_ends_are_finite_differences(way: bool) -> None:
    ode, ε = timed(adjoint=way), 1e-4
    out = ode(batch())
    torch.testing.assert_close(out, flow_map(lambda t, x: Tanh()(t + 0.3, x), batch(), 0.9), rtol=1e-6, atol=1e-6)  # type: ignore[arg-type]
    phi(out).backward()
    found = torch.cat([p.grad for p in ode.times()])  # type: ignore[misc]
    at_t0 = (loss_of(0.3 + ε, 1.2) - loss_of(0.3 - ε, 1.2)) / (2 * ε)
    at_t1 = (loss_of(0.3, 1.2 + ε) - loss_of(0.3, 1.2 - ε)) / (2 * ε)
    torch.testing.assert_close(found, torch.stack([at_t0, at_t1]).detach(), rtol=1e-5, atol=1e-6)


def full_curvature() -> None:
    ε = 1e-3
    x1 = flow_map(Tanh(), batch(), 1.2).detach()
    slope, curvature = time_curvature(Tanh(), phi, x1, 1.2)
    near = [loss_of(0.0, 1.2 + s * ε).detach() for s in (-1, 0, 1)]
    torch.testing.assert_close(slope, (near[2] - near[0]) / (2 * ε), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(curvature, (near[2] - 2 * near[1] + near[0]) / ε**2, rtol=1e-4, atol=1e-4)


def test_the_second_derivative_is_that_of_finite_differences() -> None:
    full_curvature()


def test_a_field_without_its_time_derivative_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.autograd.grad
    short = lambda *args, **kwargs: tuple(0 * g if g.dim() == 0 else g for g in real(*args, **kwargs))  # noqa: E731
    monkeypatch.setattr(times.torch.autograd, "grad", short)
    with pytest.raises(AssertionError):
        full_curvature()


def statistics(x: Tensor, penalty: float = 0.0, curvature: Any = None) -> tuple[OCNOpt, NeuralODE, Tensor]:
    """An optimizer after one step on ½ mean |x(T) − 1|², T alone learning, and Q_TT by its definition."""
    ode = NeuralODE(Tanh(), t1=TerminalTime(1.2, penalty=penalty).double(), **FINE)
    for p in ode.field.parameters():
        p.requires_grad_(False)
    options: dict[str, Any] = {"search": "fixed", "lr": 0.5, "momentum": 0.0, "damping": 1e-12, "saturation": None}
    optimizer = OCNOpt(ode, curvature=curvature or KFAC(), terminal="gauss-newton", **options)
    out = ode(x)
    F = ode.field(torch.tensor(1.2).double(), out.detach())
    optimizer.backward((out - 1).square().sum(1).mean() / 2 + ode.penalty(), out)
    optimizer.step()
    return optimizer, ode, F.square().sum(1).mean().detach() + penalty


@pytest.mark.parametrize("curvature", [KFAC, EKFAC])
@pytest.mark.parametrize("penalty", [0.0, 0.7])
def test_curvature_is_the_scalar_gauss_newton(curvature: Any, penalty: float) -> None:
    """Q_TT = Σ_i C_i (q_iᵀF_i)² + c, and δT = −Q_T / Q_TT."""
    kind = curvature(damping=1e-12)
    optimizer, ode, Q_TT = statistics(batch(), penalty, kind)
    state = optimizer.state[ode.t1.time]  # type: ignore[union-attr]
    torch.testing.assert_close(state["B"].squeeze(), Q_TT)
    torch.testing.assert_close(state["A"].squeeze(), torch.ones(()).double())
    (Q_T,) = ode.t1.time.grad  # type: ignore[union-attr]
    moved = ode.t1.time.detach() - 1.2  # type: ignore[union-attr]
    # With feedback the Bellman pass keeps the block of M once: KFAC holds it already.
    torch.testing.assert_close(moved.squeeze(), -0.5 * Q_T / Q_TT, rtol=1e-4, atol=1e-6)


def test_a_lost_penalty_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TimePlayer, "private", 0.0)
    with pytest.raises(AssertionError):
        test_curvature_is_the_scalar_gauss_newton(KFAC, 0.7)


def test_large_states_count_every_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are samples, not entries of the state."""
    call = Call((torch.randn(64, 50), torch.randn(64, 50)), {}, (torch.Size((64, 50)),), batch=64)
    call.leaves = [torch.randn(64, 50)]
    (part,) = factors.evidence(TimePlayer(TerminalTime(1.0), ("time",)), [call], 64, 64)
    assert part.U.shape == (1, 1, 64, 1, 1)
    monkeypatch.setattr(TimePlayer, "width", 1)
    (part,) = factors.evidence(TimePlayer(TerminalTime(1.0), ("time",)), [call], 64, 64)
    assert part.U.shape[2] == 2


def test_the_batch_size_does_not_matter() -> None:
    """A batch twice is the same step of T: nothing but the 1/B of the loss depends on it."""
    once, twice = statistics(batch()), statistics(batch().repeat(2, 1))
    torch.testing.assert_close(once[1].t1.time, twice[1].t1.time)  # type: ignore[union-attr]
    plain = []
    for x in (batch(), batch().repeat(2, 1)):
        ode = NeuralODE(Tanh(), t1=TerminalTime(1.2).double(), **FINE)
        optimizer = OCNOpt(ode, curvature=KFAC(fisher="given"), search="fixed", terminal="gradient", saturation=None)
        phi(ode(x)).backward()
        optimizer.step()
        plain.append(ode.t1.time.detach())  # type: ignore[union-attr]
    assert float(plain[0]) != 1.2
    torch.testing.assert_close(*plain)


def test_the_end_time_reacts_to_the_field() -> None:
    """δT = −Q_TT⁻¹(Q_T + Q_Tθ δθ): with the coupled value, θ and T together take the joint Gauss-Newton step."""
    torch.manual_seed(0)
    field, λ = nn.Linear(3, 3).double(), 0.1

    class Autonomous(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = field

        def forward(self, t: Tensor, x: Tensor) -> Tensor:
            return self.layer(x).tanh()

    ode = NeuralODE(Autonomous(), t1=TerminalTime(1.2).double(), nodes=8, **FINE)
    x = batch()
    params = list(ode.parameters())
    before = [p.detach().clone() for p in params]

    def residual(*θ: Tensor) -> Tensor:
        W, b, T = (θ[j] for j in (names.index(n) for n in ("field.layer.weight", "field.layer.bias", "t1.time")))
        y, h = x, T / 40
        for _ in range(40):
            k1 = (y @ W.T + b).tanh()
            k2 = ((y + h / 2 * k1) @ W.T + b).tanh()
            k3 = ((y + h / 2 * k2) @ W.T + b).tanh()
            y = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + ((y + h * k3) @ W.T + b).tanh())
        return (y - 1).flatten() / len(x) ** 0.5

    names = [name for name, _ in ode.named_parameters()]
    J = torch.cat([j.flatten(1) for j in torch.autograd.functional.jacobian(residual, tuple(before))], dim=1)
    wanted = -torch.linalg.solve(J.T @ J + λ * torch.eye(J.shape[1]).double(), J.T @ residual(*before))
    optimizer = OCNOpt(
        ode, curvature="sgd", value="coupled", terminal="gauss-newton", search="fixed", lr=1 / λ, saturation=None,
        momentum=0.0,
    )  # fmt: skip
    out = ode(x)
    optimizer.backward((out - 1).square().sum(1).mean() / 2, out)
    optimizer.step()
    found = torch.cat([(p.detach() - b).flatten() for p, b in zip(params, before, strict=True)])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_response_of_half_the_size_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = TimePlayer.outputs
    monkeypatch.setattr(TimePlayer, "outputs", lambda self, call, U: 0.5 * real(self, call, U))
    with pytest.raises(AssertionError):
        test_the_end_time_reacts_to_the_field()


def test_bounds_hold_with_any_optimizer() -> None:
    ode = NeuralODE(Tanh(), t1=TerminalTime(1.0, low=0.5, high=1.1, reach=math.inf).double())
    optimizer = torch.optim.SGD(ode.times(), lr=1.0)
    for target, edge in ((5.0, 1.1), (-5.0, 0.5)):
        optimizer.zero_grad()
        (ode(batch()).sum() * 0 + (ode.t1.time - target).square().sum()).backward()  # type: ignore[union-attr]
        optimizer.step()
        assert ode.t1.value == edge  # type: ignore[union-attr]
        ode(batch())
        assert float(ode.t1.time.detach()) == edge  # type: ignore[union-attr]


def moved(ode: NeuralODE, time: Tensor, to: float) -> float:
    """The length of the solve after somebody has put an end elsewhere."""
    with torch.no_grad():
        time.fill_(to)
        ode(batch())
    t0, t1 = ode.span()
    return t1 - t0


@pytest.mark.parametrize("away", [5.0, -5.0])
def test_a_length_changes_by_the_reach_at_most(away: float) -> None:
    """By half in a forward pass and no more in the next ones while T stays; either end, in either direction."""
    for end in (0, 1):
        ode = timed()
        longer = (away > 0) == (end == 1)
        ode(batch())
        expected = 0.9 * 1.5 if longer else 0.9 / 1.5
        if end == 0 and not longer:
            expected = 0.9 - 0.2  # the bound of 0.5 is nearer
        assert moved(ode, ode.times()[end], away) == pytest.approx(expected, rel=1e-4)
        assert moved(ode, ode.times()[end], ode.times()[end].item()) == pytest.approx(expected, rel=1e-4)


def test_a_trial_that_is_taken_back_leaves_the_time_as_it_was() -> None:
    for trial in (5.0, 1e-3):
        ode = NeuralODE(Tanh(), t1=TerminalTime(1.2, low=0.0).double())
        before = moved(ode, ode.times()[0], 1.2)
        moved(ode, ode.times()[0], trial)
        assert moved(ode, ode.times()[0], 1.2) == before


def test_what_is_in_reach_is_part_of_the_state() -> None:
    """A run that goes on elsewhere is held as it would have been."""
    ode, other = timed(), timed()
    ode(batch())
    with torch.no_grad():
        ode.times()[1].fill_(5.0)
    other.load_state_dict(ode.state_dict())
    assert other.span() == ode.span() != timed().span()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time": 1.0, "low": 2.0}, "low ≤ time ≤ high"),
        ({"time": math.inf}, "low ≤ time ≤ high"),
        ({"time": 1.0, "penalty": -1.0}, "finite and not negative"),
        ({"time": 1.0, "reach": 0.0}, r"reach=0.0\) must be positive"),
    ],
)
def test_times_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TerminalTime(**arguments)


def test_ends_that_cross_are_an_error() -> None:
    ode = timed()
    with torch.no_grad():
        ode.t1.time.fill_(0.1)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="needs t0 < t1"):
        ode(batch())


def test_the_player_of_a_tuple() -> None:
    """Products of a state of two tensors, one without features, are those of automatic differentiation."""
    torch.manual_seed(0)
    time = TerminalTime(1.0).double()
    x, F, u = ((torch.randn(4, 3).double(), torch.randn(4).double()) for _ in range(3))
    out = time(*x, *F)
    call = Call((*x, *F), {}, tuple(h.shape for h in out), batch=4, leaves=list(u))
    player = find(time, ("time",))
    assert isinstance(player, TimePlayer)
    (g,) = torch.autograd.grad(out, time.time, u)
    torch.testing.assert_close(player.pull(call, call.v)[0], g)
    torch.testing.assert_close((player.tangent(call, (torch.ones(1).double(),)) * call.v).sum(), g.squeeze())
    torch.testing.assert_close(player.sample_pull(call, call.v[None])[0].sum((0, 1)), g)


def run(period: int, steps: int, curvature: Any = "kfac") -> tuple[list[float], OCNOpt]:
    """T after every step, in a group of its own."""
    ode = NeuralODE(Tanh(), t1=TerminalTime(1.25).double())
    others = [p for p in ode.parameters() if all(p is not t for t in ode.times())]
    groups = [{"params": others}, {"params": ode.times(), "lr": 0.3, "period": period}]
    optimizer = OCNOpt(ode, curvature=curvature, params=groups, search="fixed", lr=0.01)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        phi(ode(batch())).backward()
        optimizer.step()
        seen.append(ode.t1.value)  # type: ignore[union-attr]
    return seen, optimizer


@pytest.mark.parametrize("curvature", ["kfac", "adam"])
def test_a_group_moves_at_the_end_of_its_period(curvature: str) -> None:
    seen, optimizer = run(3, 7, curvature)
    moved = [a != b for a, b in zip([1.25, *seen], seen, strict=False)]
    assert moved == [False, False, True, False, False, True, False]
    assert all(a != b for a, b in zip([1.25, *run(1, 3)[0]], run(1, 3)[0], strict=False))
    if curvature == "kfac":  # its statistics have gone on in between
        assert optimizer.state[optimizer.param_groups[1]["params"][0]]["updates"] == 5


def test_all_may_rest() -> None:
    model = nn.Linear(3, 2)
    optimizer = OCNOpt(model, params=[{"params": model.parameters(), "period": 2}])
    before = copy.deepcopy(model.state_dict())
    for step in (1, 2):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        same = all(torch.equal(a, before[k]) for k, a in model.state_dict().items())
        assert same == (step == 1)
    with pytest.raises(ValueError, match="whole number of steps"):
        OCNOpt(model, params=[{"params": model.parameters(), "period": 0}])
