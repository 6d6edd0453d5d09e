"""torchode's solvers, whose steps are the graph."""

from __future__ import annotations

import pytest
import torch
from flow_cases import captured, field, linears, pulled, samples

from ocnopt.ode import one_solve

torchode = pytest.importorskip(
    "torchode", reason="torchode is not installed: pip install --no-deps torchode torchtyping (see docs/flows.md)"
)


def test_the_pull_of_all_calls_is_the_gradient() -> None:
    F, x = field(), samples()
    capture = captured(F)
    # torchode has a time for every sample; the field's layers take it as a column.
    term = torchode.ODETerm(lambda t, y: F.layers[1](t[:, None], F.activation(F.layers[0](t[:, None], y))))
    method, controller = torchode.Tsit5(term), torchode.IntegralController(1e-6, 1e-3, term=term)
    problem = torchode.InitialValueProblem(y0=x, t_eval=torch.tensor([[0.0, 1.0]], dtype=x.dtype).expand(len(x), 2))
    with one_solve():
        solution = torchode.AutoDiffAdjoint(method, controller).solve(problem)
    solution.ys[:, -1].square().mean().backward()
    for layer in linears(F):
        calls = capture.calls[layer]
        W, b = pulled(layer, calls)
        torch.testing.assert_close(W, layer.weight.grad)
        if layer.bias is not None:
            torch.testing.assert_close(b, layer.bias.grad)
        largest = max(calls, key=lambda call: float(call.v.norm()))
        others = [call for call in calls if call is not largest]
        assert not torch.allclose(pulled(layer, others)[0], layer.weight.grad)
    capture.remove()
