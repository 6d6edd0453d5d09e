"""Models written for torchdiffeq's odeint_adjoint: what is captured of them equals integrals over time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.core.backward import Evaluation
from ocnopt.core.search import Model
from ocnopt.core.trajectory import Call
from ocnopt.curvature.factors import evidence, factor_A, factor_B
from ocnopt.ode.knots import STAGES, Ends, Knot, Knots, Stages
from ocnopt.ode.solver import ADAPTIVE
from ocnopt.players import find

torchdiffeq = pytest.importorskip("torchdiffeq", reason="needs the extra [ode]")

TIMES = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
"""An irregular grid."""


class Field(nn.Module):
    """Two layers that also see the time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(torch.cat([x, t.expand(len(x), 1).to(x)], dim=1))))


class Net(nn.Module):
    """Encoder, solve, decoder; ``solve`` is what torchdiffeq is asked for."""

    def __init__(self, solve: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.encoder, self.field, self.decoder = nn.Linear(2, 2), Field(), nn.Linear(2, 3)
        self.solve = solve

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.solve(self.field, self.encoder(x)))


def adjoint(times: Tensor = TIMES, **options: Any) -> Callable[[nn.Module, Tensor], Tensor]:
    """Every output time counts."""
    return lambda field, x: torchdiffeq.odeint_adjoint(field, x, times, **options)[1:].sum(0)


def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(8, 2), torch.randint(3, (8,))


def heard(solve: Callable[[nn.Module, Tensor], Tensor], **options: Any) -> tuple[Net, OCNOpt]:
    """A net after loss.backward(), with all samples of its trajectory."""
    torch.manual_seed(0)
    net = Net(solve)
    optimizer = OCNOpt(net, feedback_samples=None, **options)
    x, y = data()
    nn.functional.cross_entropy(net(x), y).backward()
    return net, optimizer


def calls(optimizer: OCNOpt, module: nn.Module) -> list[Call]:
    return [call for call in optimizer.capture.calls.get(module, []) if call.leaves]


def deviation(net: Net, optimizer: OCNOpt) -> float:
    """Of Σ over calls of f_θᵀ v from p.grad, relative, over both layers of the field."""
    pulls = [sum(call.v.mT @ call.z for call in calls(optimizer, m)) for m in (net.field.a, net.field.b)]
    grads = [net.field.a.weight.grad, net.field.b.weight.grad]
    pairs = list(zip(pulls, grads, strict=True))
    return float(sum((p - g).norm() for p, g in pairs) / sum(g.norm() for _, g in pairs))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


# the rules themselves


class Weighed(Evaluation):
    """An evaluation that notes what it counted."""

    weight = 0.0

    def deposit(self, weight: float, share: float = 1.0) -> None:
        self.weight, self.share = weight, share


def test_stages_are_the_methods_own_rule() -> None:
    """Σ b_i c_i^k = 1/(k+1) up to the order: a wrong weight or node breaks it."""
    for method, order in {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4}.items():
        sums = [sum(b * c**k for c, b in STAGES[method]) for k in range(order)]
        assert sums == pytest.approx([1 / (k + 1) for k in range(order)])


def test_stages_hand_over_every_step() -> None:
    knots = Knots()
    rule = Stages(knots, STAGES["rk4"])
    for t in (1.0, 0.5):
        rule.begun(t, 0.5)
        for _ in range(5):  # one more for an interpolation, which must not count
            rule.evaluated(Weighed())
    rule.ended()
    assert sum(k.weight * k.t**3 for k in knots.kept) == pytest.approx(1 / 4)
    assert len(knots.kept) == 8


def trapezoid(y: Callable[[float], float], ends: list[float], steps: int) -> float:
    """∫ y dt by ``Ends``, from evaluations at the ends of steps, each second step rejected first."""
    knots = Knots(limit=10 * steps)
    rule = Ends(knots, ends, 2)
    values: dict[int, float] = {}

    def evaluate(t: float) -> None:
        if rule.hears():
            evaluation = Weighed()
            values[id(evaluation)] = y(t)
            kept.append(evaluation)
            rule.evaluated(evaluation)

    kept: list[Weighed] = []
    for high, low in zip(ends[:0:-1], ends[-2::-1], strict=True):
        dt = (high - low) / (steps - 0.4)  # the last step reaches beyond the interval
        evaluate(high)
        evaluate(high - 0.01 * dt)  # as a solver does that looks for its first step
        t = high
        for j in range(steps):
            if j % 2:
                rule.begun(t, 2 * dt)
                evaluate(t - dt)
                evaluate(t - 2 * dt)
            rule.begun(t, dt)
            evaluate(t - dt / 2)
            evaluate(t - dt)
            rule.accepted(t, dt)
            t -= dt
    rule.ended()
    assert len(kept) == (len(ends) - 1) * (1 + steps + steps // 2)  # no stage within a step is heard
    return sum(knot.weight * values[id(knot.evaluation)] for knot in knots.kept)


def test_ends_are_second_order_and_forget_rejected_steps() -> None:
    exact = (3.0**4 - 1) / 4
    errors = [abs(trapezoid(lambda t: t**3, [1.0, 1.5, 3.0], n) - exact) for n in (8, 16, 32)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.25)


def test_ends_are_exact_for_lines() -> None:
    assert trapezoid(lambda t: 2 * t + 1, [0.0, 0.2, 1.0], 3) == pytest.approx(2.0, rel=1e-12)


@pytest.mark.parametrize("count", [33, 34, 200])
def test_thinned_knots_integrate_lines_exactly(count: int) -> None:
    """Memory stays bounded, and no weight is lost on the way."""
    knots = Knots(limit=32)
    times = [1 - (j / (count - 1)) ** 1.5 for j in range(count)]
    for j, t in enumerate(times):
        before, after = times[max(j - 1, 0)], times[min(j + 1, count - 1)]
        knots.add(Knot(t, (before - after) / 2, Weighed()))
    assert len(knots.kept) <= 32
    assert all(k.weight > 0 for k in knots.kept)
    assert sum(k.weight for k in knots.kept) == pytest.approx(1.0)
    assert sum(k.weight * k.t for k in knots.kept) == pytest.approx(0.5, rel=1e-9)


def test_shares_add_up_to_one() -> None:
    knots = Knots()
    evaluations = [Weighed(), Weighed()]
    for evaluation, weight in zip(evaluations, (0.5, 1.5), strict=True):
        knots.add(Knot(0.0, weight, evaluation))
    knots.deposit(sign=-1.0)
    assert [e.weight for e in evaluations] == [-0.5, -1.5]
    assert [e.share for e in evaluations] == [0.25, 0.75]


# inside torchdiffeq


@pytest.mark.parametrize("method", sorted(STAGES))
def test_pull_equals_the_gradient_on_fixed_grids(method: str) -> None:
    """The same rule as the solver's own: equal to rounding. A sign, a stage or a step amiss is far off."""
    net, optimizer = heard(adjoint(method=method, options={"step_size": 0.25}))
    assert deviation(net, optimizer) < 1e-12


@pytest.mark.parametrize("method", ADAPTIVE)
def test_pull_converges_to_the_gradient(method: str) -> None:
    """Of second order in the steps, whatever the order of the solver."""
    tight = {"rtol": 1e-9, "atol": 1e-9} if method in ("dopri5", "dopri8") else {"rtol": 1e-5, "atol": 1e-5}
    errors = []
    for step in (0.2, 0.1):
        solve = adjoint(method=method, **tight, adjoint_options={"max_step": step, "first_step": step})
        errors.append(deviation(*heard(solve)))
    assert errors[1] < 3e-3
    if method in ("dopri5", "dopri8"):  # the others take shorter steps than they may
        assert 2.5 < errors[0] / errors[1] < 6


@pytest.mark.parametrize("norm", ["seminorm", None])
def test_seminorms(norm: str | None) -> None:
    options = {"max_step": 0.1} | ({} if norm is None else {"norm": norm})
    assert deviation(*heard(adjoint(rtol=1e-6, atol=1e-6, adjoint_options=options))) < 3e-3


def test_backwards_in_time() -> None:
    times = TIMES.flip(0)
    assert deviation(*heard(adjoint(times, method="rk4", options={"step_size": 0.25}))) < 1e-12
    assert deviation(*heard(adjoint(times, rtol=1e-6, atol=1e-6, adjoint_options={"max_step": 0.1}))) < 3e-3


def test_two_solves_with_one_field_add_up() -> None:
    def solve(field: nn.Module, x: Tensor) -> Tensor:
        half = adjoint(method="rk4", options={"step_size": 0.25})
        return half(field, half(field, x))

    net, optimizer = heard(solve)
    assert deviation(net, optimizer) < 1e-12
    assert sum(call.share for call in calls(optimizer, net.field.a)) == pytest.approx(2.0)


def test_tuples_of_states() -> None:
    class Pair(nn.Module):
        def __init__(self, field: nn.Module) -> None:
            super().__init__()
            self.field = field

        def forward(self, t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            x, cost = state
            return self.field(t, x), x.square().sum(1) + 0 * cost

    def solve(field: nn.Module, x: Tensor) -> Tensor:
        start = x, x.new_zeros(len(x))
        options = {"method": "rk4", "options": {"step_size": 0.25}}
        y, cost = torchdiffeq.odeint_adjoint(Pair(field), start, TIMES, **options)
        return y[-1] + cost[-1].unsqueeze(1)

    assert deviation(*heard(solve)) < 1e-12


def test_a_users_own_callback_is_called_as_well() -> None:
    steps: list[float] = []

    def solve(field: nn.Module, x: Tensor) -> Tensor:
        field.callback_step_adjoint = lambda t0, y0, dt: steps.append(float(t0))
        return adjoint(method="rk4", options={"step_size": 0.25})(field, x)

    net, optimizer = heard(solve, feedback=0.0, curvature="adam", search="fixed")
    alone = len(steps)
    net, optimizer = heard(solve)
    assert alone > 0 and len(steps) >= 2 * alone
    assert deviation(net, optimizer) < 1e-12


@pytest.mark.parametrize(("method", "order"), [("midpoint", 2), ("rk4", 4)])
def test_factors_converge_to_dense_quadrature(method: str, order: int) -> None:
    """A·T → ∫ z zᵀ dt and B/T → ∫ g gᵀ dt, g = F_hᵀ q, with the order of the rule. Without shares B would vanish."""
    errors = []
    for step in (0.5, 0.25):
        net, optimizer = heard(adjoint(TIMES[[0, 2]], method=method, options={"step_size": step}))
        player = find(net.field.b, ("weight", "bias"))
        parts = evidence(player, calls(optimizer, net.field.b), batch=1, rows=10**6)  # type: ignore[arg-type]
        A, B = dense_factors(net, steps=800)
        pairs = ((factor_A(parts, 100)[0], A), (factor_B(parts, 100)[0], B))
        errors.append([float((found - dense).norm() / dense.norm()) for found, dense in pairs])
    for coarse, fine in zip(*errors, strict=True):
        assert fine < {2: 0.08, 4: 5e-3}[order]
        assert coarse / fine > 2 ** (order - 0.7)


def dense_factors(net: Net, steps: int) -> tuple[Tensor, Tensor]:
    """∫ z zᵀ dt / B over samples and ∫ q qᵀ dt of the layer b, whose output is dx/dt, by an unrolled midpoint rule."""
    x, y = data()
    h = 1 / steps
    states, Z = [net.encoder(x)], []
    for j in range(steps):
        middle = states[-1] + h / 2 * net.field(torch.tensor(j * h), states[-1])
        z = torch.tanh(net.field.a(torch.cat([middle, torch.full((len(x), 1), (j + 0.5) * h)], dim=1)))
        Z.append(torch.cat([z.detach(), torch.ones(len(x), 1)], dim=1))
        states.append(states[-1] + h * net.field.b(z))
    q = torch.autograd.grad(nn.functional.cross_entropy(net.decoder(states[-1]), y), states)
    middles = [(before + after) / 2 for before, after in pairwise(q)]
    A, B = (torch.stack([h * row.mT @ row for row in rows]).sum(0) for rows in (Z, middles))
    return A / len(x), B


def test_memory_does_not_grow_with_the_steps() -> None:
    counts = []
    for step in (0.02, 0.002):
        net, optimizer = heard(adjoint(method="euler", options={"step_size": step}))
        counts.append(len(calls(optimizer, net.field.a)))
        assert deviation(net, optimizer) < 0.02
    assert max(counts) <= 32


# discretise, then optimise


def unrolled(**options: Any) -> Callable[[nn.Module, Tensor], Tensor]:
    return lambda field, x: torchdiffeq.odeint(field, x, TIMES, **options)[1:].sum(0)


@pytest.mark.parametrize("options", [{"rtol": 1e-4, "atol": 1e-4}, {"method": "rk4", "options": {"step_size": 0.1}}])
def test_every_call_of_odeint_counts(options: dict[str, Any]) -> None:
    assert deviation(*heard(unrolled(**options))) < 1e-12


def test_the_adjoint_trains_as_the_unrolled_solver_does() -> None:
    """With tight tolerances on a fixed grid both see the same integrals, up to the order of the rule.

    Draws meet the calls of the unrolled solve alone, so that only that one could be calibrated.
    """
    curves, search = [], Model(measured=1.0, calibration=1.0)
    for solve in (adjoint, unrolled):
        net, optimizer = heard(solve(method="rk4", options={"step_size": 0.1}), search=search)
        x, y = data()
        losses = []
        for _ in range(6):
            optimizer.step()
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            losses.append(loss.item())
        curves.append(torch.tensor(losses))
    torch.testing.assert_close(curves[0], curves[1], rtol=5e-3, atol=0)


# refusals, faults


@pytest.mark.filterwarnings("ignore:OCNOpt cannot follow")
@pytest.mark.parametrize("method", ["explicit_adams", "implicit_adams"])
def test_methods_that_cannot_be_weighed_are_refused(method: str) -> None:
    _net, optimizer = heard(adjoint(method=method, options={"step_size": 0.25}))
    optimizer.step()
    reasons = {row.parameter: row.reason for row in optimizer.coverage()}
    assert method in reasons["field.a.weight"] and not reasons["encoder.weight"]


def test_events_are_refused() -> None:
    def solve(field: nn.Module, x: Tensor) -> Tensor:
        def event(t: Tensor, y: Tensor) -> Tensor:
            return t - 0.7

        _t, y = torchdiffeq.odeint_adjoint(field, x, TIMES[:2], event_fn=event)
        return y[-1]

    with pytest.warns(UserWarning, match="event function"):
        _net, optimizer = heard(solve)
    optimizer.step()
    assert "event function" in {row.parameter: row.reason for row in optimizer.coverage()}["field.a.weight"]


@pytest.mark.filterwarnings("ignore:OCNOpt cannot follow")
def test_columns_are_refused() -> None:
    net, optimizer = heard(adjoint(rtol=1e-4, atol=1e-4), terminal="gauss-newton")
    optimizer.zero_grad()
    x, y = data()
    output = net(x)
    optimizer.backward(nn.functional.cross_entropy(output, y), output)
    optimizer.step()
    reasons = {row.parameter: row.reason for row in optimizer.coverage()}
    assert "NeuralODE" in reasons["field.a.weight"]


def test_a_solve_that_fails_leaves_no_trace() -> None:
    """The step after it equals that of a twin which never failed."""
    nets = []
    for fails in (False, True):
        torch.manual_seed(0)
        net = Net(adjoint(rtol=1e-4, atol=1e-4))
        optimizer = OCNOpt(net)
        x, y = data()
        if fails:
            net.solve = adjoint(rtol=1e-4, atol=1e-4, adjoint_options={"max_num_steps": 1})
            with pytest.raises(AssertionError, match="max_num_steps"):
                nn.functional.cross_entropy(net(x), y).backward()
            net.solve = adjoint(rtol=1e-4, atol=1e-4)
            optimizer.zero_grad()
        for _ in range(2):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
        nets.append(net)
    for p, q in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


@pytest.mark.parametrize("curvature", ["sgd", "rmsprop", "adam", "kfac", "ekfac"])
def test_it_trains(curvature: str) -> None:
    torch.manual_seed(0)
    net = Net(adjoint(rtol=1e-3, atol=1e-3))
    optimizer = OCNOpt(net, curvature=curvature)
    x = torch.randn(64, 2)
    y = (x[:, 0] * x[:, 1] > 0).long() + (x.norm(dim=1) > 1.5).long()
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(row.feedback for row in optimizer.coverage())
