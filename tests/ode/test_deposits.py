"""What an optimizer hears of an ODE: integrals over time, and columns that cross it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from ode_nets import FINE, Tanh, batch, captured, encoder_ode_decoder, flow_map, parameter_jacobian, solver
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from ocnopt import OCNOpt
from ocnopt.core.backward import Evaluation, Pass
from ocnopt.core.capture import Mode
from ocnopt.core.trajectory import Call
from ocnopt.curvature import KFAC
from ocnopt.curvature.factors import evidence, factor_A, factor_B
from ocnopt.ode import NeuralODE, SolveError, Solver, Span, adjoint, joint, sample_products, second_order_adjoint
from ocnopt.players import find

T = 1.2


def heard(rule: str, nodes: int) -> dict[nn.Module, list[Call]]:
    """The calls of a model that is an ODE alone, after the backward pass of ½ Σ x(T)²."""
    ode = NeuralODE(Tanh(), 0.0, T, rule=rule, nodes=nodes, **FINE)
    capture = captured(ode)
    (ode(batch()).square().sum() / 2).backward()
    return capture.calls


def error(rule: str, nodes: int) -> float:
    """Of Σ w f_θᵀ g against ∂L/∂θ."""
    calls = heard(rule, nodes)
    worst = 0.0
    for layer, own in calls.items():
        total = sum(find(layer, ("weight",)).pull(call, call.v)[0] for call in own)  # type: ignore[union-attr]
        worst = max(worst, float((total - layer.weight.grad).abs().max()))
    assert len(calls) == 2
    return worst


def test_products_of_the_calls_are_the_gradient() -> None:
    assert error("gauss-legendre", 6) < 1e-6
    assert error("trapezoid", 6) > 1e-4


def factors(rule: str, nodes: int) -> list[Tensor]:
    """T A = ∫ z zᵀ dt and B / T = ∫ g gᵀ dt of both layers, through the library's own factors."""
    calls = heard(rule, nodes)
    out = []
    for layer, own in calls.items():
        parts = evidence(find(layer, ("weight", "bias")), own, 5, 10**6)  # type: ignore[arg-type]
        out += [T * factor_A(parts, 99), factor_B(parts, 99) / T]
    return out


@pytest.mark.parametrize("layer", [0, 1])
def test_factors_are_integrals_over_time_by_their_definition(layer: int) -> None:
    """From the states and adjoints on a fine grid by Simpson's rule, with no part of the library."""
    field, x, steps = Tanh(), batch(), 64
    A, B = 0.0, 0.0
    for j in range(steps + 1):
        t = T * j / steps
        weight = T / steps / 3 * (1 if j in (0, steps) else 4 if j % 2 else 2)
        with torch.no_grad():
            now = flow_map(field, x, t, 24) if j else x
        now = now.clone().requires_grad_()
        shifted: Callable[[Tensor, Tensor], Tensor] = lambda s, y, t=t: field(s + t, y)  # noqa: E731
        end = flow_map(shifted, now, T - t, 24) if j < steps else now  # type: ignore[arg-type]
        (q,) = torch.autograd.grad(end.square().sum() / 2, now)
        inner = field.inner(torch.cat([now, torch.full((5, 1), t).double()], dim=1))
        outer = field.outer(inner.tanh())
        h = (inner, outer)[layer]
        z = (torch.cat([now, torch.full((5, 1), t).double()], dim=1), inner.tanh())[layer].detach()
        z = torch.cat([z, torch.ones(5, 1).double()], dim=1)
        (g,) = torch.autograd.grad(outer, h, q)
        A, B = A + weight * z.T @ z / 5, B + 5 * weight * g.T @ g
    found = factors("gauss-legendre", 6)
    close = {"rtol": 1e-5, "atol": 1e-6}
    at = 2 * (1 - layer)  # gradients come to the last layer first
    torch.testing.assert_close(found[at][0], A, **close)
    torch.testing.assert_close(found[at + 1][0], B, **close)


def test_factors_converge_with_the_order_of_the_rule() -> None:
    exact = factors("gauss-legendre", 8)

    def off(rule: str, nodes: int) -> float:
        return max(float((a - b).abs().max()) for a, b in zip(factors(rule, nodes), exact, strict=True))

    order = math.log2(off("trapezoid", 5) / off("trapezoid", 9))
    assert 1.7 < order < 2.3
    assert off("gauss-legendre", 3) < off("trapezoid", 9) / 20


def discrete_twin(field: nn.Module, steps: int) -> nn.Module:
    """N residual layers x + h F(t, x) that share the field."""

    class Euler(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.field = field

        def forward(self, x: Tensor) -> Tensor:
            h = T / steps
            for j in range(steps):
                x = x + h * self.field(torch.tensor((j + 0.5) * h).double(), x)
            return x

    return Euler()


def first_step(make: Callable[[nn.Module], nn.Module], **options: Any) -> Tensor:
    """The step that OCNOpt takes from one batch, all parameters in a row."""
    field = Tanh()
    model = make(field)
    before = nn.utils.parameters_to_vector(field.parameters()).detach().clone()
    optimizer = OCNOpt(model, search="fixed", lr=0.1, momentum=0.0, saturation=None, **options)
    output = model(batch())
    optimizer.backward((output - 1).square().mean(), output)
    optimizer.step()
    return nn.utils.parameters_to_vector(field.parameters()).detach() - before


STEPS = {
    "identity, columns": {"curvature": "sgd", "terminal": "gauss-newton"},
    "identity, coupled": {"curvature": "sgd", "terminal": "gauss-newton", "value": "coupled"},
    "adam": {"curvature": "adam"},
}


@pytest.mark.parametrize("name", STEPS)
def test_many_residual_layers_take_the_step_of_the_ode(name: str) -> None:
    """Layers that share their control sum over time before any product of two, on both sides."""
    ode = first_step(lambda field: NeuralODE(field, 0.0, T, **FINE), **STEPS[name])
    off = [float((first_step(lambda f, n=n: discrete_twin(f, n), **STEPS[name]) - ode).norm()) for n in (8, 32)]
    assert off[1] < 0.35 * off[0]
    assert off[1] < 0.02 * float(ode.norm())


def dense_gauss_newton(Y: Tensor) -> Tensor:
    """Σ_i J_iᵀ Y_i Y_iᵀ J_i with the Jacobian of the written-out steps; Y (R, B, n)."""
    YJ = torch.einsum("rbn,bnp->rbp", Y, parameter_jacobian(Tanh(), batch(), T))
    return torch.einsum("rbp,rbq->pq", YJ, YJ)


def low_rank_gauss_newton(Y: Tensor) -> Tensor:
    """The same from one joint solve."""
    field, x = Tanh(), batch()
    found = second_order_adjoint(field, flow_map(field, x, T).detach(), Y, Span(0.0, T, solver(nodes=6)))
    p = sum(node.weight * sample_products(field, node) for node in found.nodes)
    return torch.einsum("rbp,rbq->pq", p, p)


def columns(rank: int) -> Tensor:
    return torch.randn(rank, 5, 3, generator=torch.Generator().manual_seed(4)).double()


def test_the_low_rank_block_is_the_dense_gauss_newton_of_the_flow_map() -> None:
    Y = columns(2)
    torch.testing.assert_close(low_rank_gauss_newton(Y), dense_gauss_newton(Y), rtol=1e-5, atol=1e-5)


def test_columns_together_are_columns_apart() -> None:
    """At fixed steps, to rounding."""
    field, x, span, Y = Tanh(), batch(), Span(0.0, T, solver()), columns(3)
    together = second_order_adjoint(field, x, Y, span)
    for r, found in enumerate([together.q, *together.columns]):
        apart = second_order_adjoint(field, x, Y[r : r + 1], span)
        torch.testing.assert_close(found[0], apart.q[0], rtol=1e-12, atol=1e-12)
        for node, other in zip(together.nodes, apart.nodes, strict=True):
            torch.testing.assert_close([node.q, *node.columns][r][0], other.q[0], rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match="Y must be shaped like x1"):
        second_order_adjoint(field, x, Y[0], span)


def trajectory(**options: Any) -> tuple[nn.Sequential, OCNOpt]:
    """Encoder, ODE and decoder after ``optimizer.backward`` with a column for every class."""
    model = encoder_ode_decoder(**FINE, **options)
    optimizer = OCNOpt(model, terminal="gauss-newton")
    output = model(batch(6, 2))
    optimizer.backward(nn.functional.cross_entropy(output, torch.tensor([0, 1, 2, 0, 1, 2])), output)
    return model, optimizer


def seen_by_encoder(**options: Any) -> tuple[Tensor, Tensor]:
    model, optimizer = trajectory(**options)
    (call,) = optimizer.capture.calls[model[0]]
    return call.Y, call.v


def test_columns_cross_the_ode() -> None:
    """Those of the encoder are what differentiating the solver's steps gives."""
    ours, other = seen_by_encoder(), seen_by_encoder(adjoint=False)
    assert ours[0].shape[0] == 2  # the third vanishes for a softmax
    torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-8)


def test_columns_of_the_field_are_those_of_its_layers() -> None:
    """Pulled back at all nodes, they add up to what plain automatic differentiation gives of a column."""
    model, optimizer = trajectory(nodes=6)
    plain, other = trajectory(adjoint=False)
    for name in ("inner", "outer"):
        mine, theirs = getattr(model[1].field, name), getattr(plain[1].field, name)
        player = find(mine, ("weight",))
        for r in range(2):
            a = sum(player.pull(c, c.Y[r])[0] for c in optimizer.capture.calls[mine])  # type: ignore[union-attr]
            b = sum(player.pull(c, c.Y[r])[0] for c in other.capture.calls[theirs])  # type: ignore[union-attr]
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


class Branches(nn.Module):
    """Two ODEs one behind the other, and a way around the second."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.a, self.b, self.c = (nn.Linear(n, m).double() for n, m in ((2, 3), (3, 3), (3, 2)))
        self.first, self.second = NeuralODE(Tanh(), **options), NeuralODE(Tanh(seed=2), **options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.first(self.a(x)))
        return self.c(x + self.second(x))


def test_columns_cross_odes_in_a_row_and_beside_others() -> None:
    found = {}
    for way in (True, False):
        model = Branches(adjoint=way, **FINE)
        optimizer = OCNOpt(model, terminal="gauss-newton")
        output = model(batch(6, 2))
        optimizer.backward((output**3).mean(), output)
        found[way] = [optimizer.capture.calls[m][0].Y for m in (model.a, model.b, model.c)]
    torch.testing.assert_close(found[True], found[False], rtol=1e-6, atol=1e-8)


def test_draws_cross_the_ode() -> None:
    found = {}
    for way in (True, False):
        model = encoder_ode_decoder(adjoint=way, **FINE)
        optimizer = OCNOpt(model, curvature=KFAC())
        nn.functional.cross_entropy(model(batch(6, 2)), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
        found[way] = optimizer.capture.calls[model[0]][0].drawn
        assert all(call.draws for call in optimizer.capture.calls[model[1].field.inner])
    torch.testing.assert_close(found[True], found[False], rtol=1e-6, atol=1e-8)


class Checkpointed(nn.Module):
    """A reentrant checkpoint between an encoder and an ODE."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.middle = encoder_ode_decoder(**FINE), nn.Linear(3, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net[1:](checkpoint(self.middle, self.net[0](x), use_reentrant=True))


def test_a_reentrant_checkpoint_in_front_refuses_as_without_an_ode() -> None:
    y = torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer = OCNOpt(Checkpointed(), terminal="gauss-newton")
    output = optimizer.model(batch(6, 2))
    with pytest.raises(ValueError, match="use_reentrant=False"):
        optimizer.backward(nn.functional.cross_entropy(output, y), output)
    optimizer = OCNOpt(Checkpointed(), curvature=KFAC())
    nn.functional.cross_entropy(optimizer.model(batch(6, 2)), y).backward()
    assert optimizer.diagnostics()["draws refused by a checkpoint"] > 0
    assert not any(call.draws for calls in optimizer.capture.calls.values() for call in calls)
    optimizer.step()
    assert not optimizer.diagnostics()["steps skipped"]


def test_what_waits_is_forgotten_with_the_trajectory_it_was_for() -> None:
    model = encoder_ode_decoder(**FINE)
    optimizer = OCNOpt(model, terminal="gauss-newton")
    output = model(batch(6, 2))
    lost = Pass(optimizer.capture, Mode.COLUMN, 0, optimizer.targets())  # its loss never comes
    lost.send([output], [output.detach()])
    optimizer.backward(nn.functional.cross_entropy(output, torch.tensor([0, 1, 2, 0, 1, 2])), output)
    (call,) = optimizer.capture.calls[model[0]]
    torch.testing.assert_close(call.Y, seen_by_encoder()[0])


def test_a_kept_graph_sends_its_columns_anew() -> None:
    model = encoder_ode_decoder(**FINE)
    optimizer = OCNOpt(model, terminal="gauss-newton")
    output = model(batch(6, 2))
    loss = nn.functional.cross_entropy(output, torch.tensor([0, 1, 2, 0, 1, 2]))
    real, loss.backward = loss.backward, lambda: real(retain_graph=True)  # type: ignore[method-assign]
    for _ in range(2):
        model.zero_grad()
        optimizer.backward(loss, output)
    (call,) = optimizer.capture.calls[model[0]]
    torch.testing.assert_close(call.Y, seen_by_encoder()[0])


def test_a_pass_of_one_optimizer_is_not_another_s() -> None:
    model = encoder_ode_decoder(**FINE)
    one, other = OCNOpt(model, terminal="gauss-newton"), OCNOpt(model)
    output = model(batch(6, 2))
    one.backward(nn.functional.cross_entropy(output, torch.tensor([0, 1, 2, 0, 1, 2])), output)
    Y, v = seen_by_encoder()
    for layer in (model[0], model[1].field.inner):
        assert len(one.capture.calls[layer]) == len(other.capture.calls[layer])
        assert not any(call.columns for call in other.capture.calls[layer])
    torch.testing.assert_close(one.capture.calls[model[0]][0].Y, Y)
    torch.testing.assert_close(other.capture.calls[model[0]][0].v, v)


def test_nobody_listens() -> None:
    """Without an optimizer of ours one evaluation at a node finds that out."""
    ode = NeuralODE(Tanh(), solver="euler", options={"step_size": 0.25, "interp": "linear"})
    ode(batch()).sum().backward()
    alone = ode.nfe_backward
    OCNOpt(ode)
    ode(batch()).sum().backward()
    assert ode.nfe_backward - alone == ode.solver.nodes - 1


def weights_lost(real: Any) -> Any:
    return lambda self, weight, share=1.0: real(self, 1.0, share)


def shares_lost(real: Any) -> Any:
    return lambda self, weight, share=1.0: real(self, weight, 1.0)


def columns_lost(real: Any) -> Any:
    return lambda edges, solved, passes: real(edges, replace(solved, columns=solved.columns[:1]), passes[:1])


def still(real: Any) -> Any:
    def dynamics(f: Any, k: int, count: int) -> Any:
        F = real(f, k, count)
        return lambda t, y: tuple(0 * a if 2 * k <= j < (1 + count) * k else a for j, a in enumerate(F(t, y)))

    return dynamics


MUTATIONS: dict[str, tuple[Any, str, Any, Callable[[], None]]] = {
    "weights of nodes": (Evaluation, "deposit", weights_lost, test_products_of_the_calls_are_the_gradient),
    "shares of nodes": (Evaluation, "deposit", shares_lost, test_factors_converge_with_the_order_of_the_rule),
    "a column goes no further": (adjoint, "send", columns_lost, test_columns_cross_the_ode),
    "columns stand still": (joint, "dynamics", still, test_columns_cross_the_ode),
    "columns of the low-rank block stand still": (
        joint,
        "dynamics",
        still,
        test_the_low_rank_block_is_the_dense_gauss_newton_of_the_flow_map,
    ),
    "columns stand still where they are together": (joint, "dynamics", still, test_columns_together_are_columns_apart),
    "weights in a step": (
        Evaluation,
        "deposit",
        weights_lost,
        partial(test_many_residual_layers_take_the_step_of_the_ode, "identity, columns"),
    ),
    "stale columns": (
        adjoint.Waiting,
        "current",
        lambda _: True,
        test_what_waits_is_forgotten_with_the_trajectory_it_was_for,
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, make, check = MUTATIONS[name]
    monkeypatch.setattr(owner, attribute, make(getattr(owner, attribute)))
    with pytest.raises((AssertionError, IndexError, RuntimeError)):
        check()


def one_step(model: nn.Module, optimizer: OCNOpt, x: Tensor) -> None:
    optimizer.zero_grad()
    output = model(x)
    optimizer.backward(nn.functional.cross_entropy(output, torch.tensor([0, 1, 2, 0, 1, 2])), output)
    optimizer.step()


def leaves_of(state: Any) -> list[Any]:
    """All numbers and words of a state in order."""
    return [x.tolist() if isinstance(x, torch.Tensor) else x for x in tree_leaves(state)]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_failed_solve_leaves_no_trace(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    models = [encoder_ode_decoder(rtol=1e-4, atol=1e-4) for _ in range(2)]
    optimizers = [OCNOpt(model, terminal="gauss-newton") for model in models]
    x = batch(6, 2)
    for model, optimizer in zip(models, optimizers, strict=True):
        one_step(model, optimizer, x)
    before = copy.deepcopy(models[0].state_dict()), copy.deepcopy(optimizers[0].state_dict())
    with monkeypatch.context() as patch, pytest.raises(SolveError):
        if where == "backward":
            short = Solver(options={"max_num_steps": 1, "first_step": 1e-3})
            patch.setattr(joint, "backward_settings", lambda *args: short.settings())
        one_step(models[0], optimizers[0], x * (1e308 if where == "forward" else 1.0))
    assert all(torch.equal(a, models[0].state_dict()[k]) for k, a in before[0].items())
    assert leaves_of(optimizers[0].state_dict()) == leaves_of(before[1])
    for model, optimizer in zip(models, optimizers, strict=True):
        one_step(model, optimizer, x)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("curvature", ["sgd", "rmsprop", "adam", "kfac", "ekfac"])
def test_every_curvature_trains_an_ode(curvature: str) -> None:
    x = batch(48, 2)
    y = (x[:, 0] * x[:, 1] > 0).long()
    model = encoder_ode_decoder()
    optimizer = OCNOpt(model, curvature=curvature)
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert all(row.feedback for row in optimizer.coverage())


def test_the_nonlinear_roll_out_falls_back() -> None:
    """Its second forward pass does not see the calls of the backward solve."""
    model = encoder_ode_decoder()
    optimizer = OCNOpt(model, rollout="nonlinear")
    one_step(model, optimizer, batch(6, 2))
    assert optimizer.diagnostics()["nonlinear roll-out missed a call"] == 1
