"""What the layers of a flow hear: the state's path and nothing of the divergence, against loops written out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from flow_cases import DIM, STEPS, Spy, captured, euler, field, linears, pulled, samples, trace_by_rows
from torch import Tensor

from ocnopt.core.capture import Capture
from ocnopt.ode import Adjoint, ContinuousFlow, Discretised, one_solve
from ocnopt.ode.foreign import nodes_of

GRID = 1 / STEPS


def check_calls() -> None:
    """Every z and v of the discretised solve is that of a loop in which only calls within dx/dt are watched."""
    F, x = field(), samples()
    flow = ContinuousFlow(F, DIM, solver=Discretised("euler", step=GRID))
    capture = captured(flow)
    loss = -flow.log_prob(x).mean()
    loss.backward()
    capture.remove()
    spy = Spy(F)
    _, expected, _ = euler(F, x, spy)
    torch.testing.assert_close(loss, expected)
    gradients = iter(torch.autograd.grad(expected, spy.outputs()))
    for module, seen in spy.seen.items():
        calls = sorted(capture.calls[module], key=lambda call: float(call.z[0, -1]))
        v = [next(gradients) for _ in seen]
        pairs = sorted(zip([z for z, _ in seen], v, strict=True), key=lambda pair: float(pair[0][0, -1]))
        assert len(calls) == len(pairs) == STEPS
        for call, (z, v_expected) in zip(calls, pairs, strict=True):
            torch.testing.assert_close(call.z, z)
            torch.testing.assert_close(call.v, v_expected)
            assert call.share == 1 / STEPS


def check_parts_of_the_gradient() -> None:
    """p.grad = pull(v) + the direct influence of the parameters on the divergence, at the points of the solve."""
    F, x = field(), samples()
    flow = ContinuousFlow(F, DIM, solver=Discretised("euler", step=GRID))
    capture = captured(flow)
    (-flow.log_prob(x).mean()).backward()
    capture.remove()
    _, _, points = euler(F, x)
    direct = sum(-trace_by_rows(F, t, z.detach()).mean() * GRID for t, z in points)
    layers = linears(F)
    influence = torch.autograd.grad(direct, [layer.weight for layer in layers], allow_unused=True)
    for layer, part in zip(layers, influence, strict=True):
        W, _ = pulled(layer, capture.calls[layer])
        torch.testing.assert_close(layer.weight.grad, W + (0 if part is None else part))
    assert any(part is not None and float(part.abs().max()) > 1e-3 for part in influence)


def test_calls_are_those_of_the_states_path() -> None:
    check_calls()


def test_the_gradient_has_two_parts() -> None:
    check_parts_of_the_gradient()


@pytest.mark.parametrize("check", [check_calls, check_parts_of_the_gradient])
def test_the_gate_is_needed(check: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocnopt.ode.flows.flow.muted", nullcontext)
    with pytest.raises(AssertionError):
        check()


def column_of(flow: ContinuousFlow, x: Tensor) -> tuple[Tensor, list[Tensor], int]:
    """The gradients of a column that is zero at ℓ, and how many nodes of the graph were given a tensor for it."""
    end = flow(x)
    counted: list[int] = []
    for node in nodes_of([end]):
        node.register_prehook(lambda gradients: counted.append(any(g is not None for g in gradients)))
    column = torch.cat([torch.ones_like(x), x.new_zeros(len(x), 1)], dim=1)
    parameters = list(flow.parameters())
    found = torch.autograd.grad(end, parameters, column, allow_unused=True, materialize_grads=True)
    return end.detach(), list(found), sum(counted)


def test_a_column_without_the_divergence_does_not_go_back_through_it(monkeypatch: pytest.MonkeyPatch) -> None:
    flow, x = ContinuousFlow(field(), DIM, solver=Discretised("rk4", step=0.5)), samples()
    end, found, visited = column_of(flow, x)
    monkeypatch.setattr("ocnopt.ode.flows.flow.Silent.apply", lambda x: x)
    expected_end, expected, all_nodes = column_of(flow, x)
    torch.testing.assert_close(end, expected_end, rtol=0, atol=0)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert visited < 0.7 * all_nodes


def check_adjoint(trace: str) -> None:
    """Within torchdiffeq's backward solve the layers hear −F_hᵀ q of one evaluation, once, and no divergence.

    One step of Euler's method back from T: q = ∇(½|x|²)/B at x(T), the state that the backward solve starts from.
    """
    F, x = field(), samples()
    flow = ContinuousFlow(F, DIM, trace, Adjoint("euler", step=1.0))
    capture = captured(flow)
    (-flow.log_prob(x).mean()).backward()
    capture.remove()
    t, zero = x.new_tensor(1.0), x.new_tensor(0.0)
    end = (x + F(zero, x)).detach()
    spy = Spy(F)
    spy.on = True
    dx = F(t, end)
    gradients = torch.autograd.grad(dx, spy.outputs(), -end / len(x))
    for (module, seen), v in zip(spy.seen.items(), gradients, strict=True):
        (call,) = capture.calls[module]
        torch.testing.assert_close(call.z, seen[0][0])
        torch.testing.assert_close(call.v, v)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_backward_solve_is_heard_without_the_divergence(trace: str) -> None:
    check_adjoint(trace)


@pytest.mark.parametrize("trace", ["exact", "hutchinson"])
def test_the_gate_of_the_backward_solve_is_needed(trace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocnopt.ode.flows.flow.muted", nullcontext)
    with pytest.raises((AssertionError, ValueError)):
        check_adjoint(trace)


def test_sampling_leaves_no_trace() -> None:
    flow = ContinuousFlow(field(), DIM, solver=Discretised("euler", step=0.5))
    capture = captured(flow)
    flow.log_prob(samples()).mean().backward()
    before = {module: len(calls) for module, calls in capture.calls.items()}
    flow.sample(3)
    assert {module: len(calls) for module, calls in capture.calls.items()} == before
    assert not capture.hidden


def test_evaluations_of_one_solve_share_its_time() -> None:
    """Each solve's evidence counts as that of one call, however many evaluations it took."""
    F, x = field(), samples()
    capture = captured(F)
    F(x.new_tensor(0.0), x).sum().backward()
    assert all(call.share == 1 for calls in capture.calls.values() for call in calls)
    capture.clear()
    with one_solve():
        total = sum(F(x.new_tensor(float(k)), x).sum() for k in range(3))
    total.backward()
    assert [call.share for call in capture.calls[linears(F)[0]]] == [1 / 3] * 3
    capture.remove()


def test_a_penalty_with_a_graph_is_not_the_losss_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes with create_graph=True are ignored; with that line gone they would be heard."""

    def heard() -> int:
        F, x = field(), samples().requires_grad_()
        capture = captured(F)
        torch.autograd.grad(F(x.new_tensor(0.0), x).sum(), x, create_graph=True)
        capture.remove()
        return len(capture.calls)

    assert heard() == 0
    real = Capture.arrived

    def always(self: Capture, *args: object) -> None:
        with torch.no_grad():
            real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Capture, "arrived", always)
    assert heard() == 2  # layers that x reaches
