"""zuko's flows through their public API: what their layers hear in the replayed steps, and training."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from flow_cases import Spy, linears, pulled, samples
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.ode import replays
from ocnopt.ode.replays import WEIGHTS, Listening
from ocnopt.players import find
from ocnopt.players.generic import GenericPlayer
from ocnopt.players.linear import LinearPlayer

zuko = pytest.importorskip("zuko", reason="zuko is not installed: pip install 'ocnopt[flows]'")


def flow(exact: bool = True) -> nn.Module:
    torch.manual_seed(0)
    made = zuko.flows.CNF(2, hidden_features=(6,), exact=exact, atol=1e-4, rtol=1e-4).double()
    made.base.to(torch.float64)
    return made


def layers(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, zuko.nn.Linear)]


def transported(model: nn.Module, x: Tensor) -> Tensor:
    return model().transform(x).square().mean()


def likelihood(model: nn.Module, x: Tensor) -> Tensor:
    return -model().log_prob(x).mean()


def backed(loss: Callable[[nn.Module, Tensor], Tensor], exact: bool = True) -> OCNOpt:
    model = flow(exact)
    optimizer = OCNOpt(model)
    loss(model, samples()).backward()
    return optimizer


def check_without_divergence() -> None:
    """Where only the state's path is differentiated, the pull of all calls is p.grad, to rounding."""
    optimizer = backed(transported)
    for layer in layers(optimizer.model):
        W, b = pulled(layer, optimizer.capture.calls[layer])
        torch.testing.assert_close(W, layer.weight.grad)
        torch.testing.assert_close(b, layer.bias.grad)


def check_with_divergence(exact: bool) -> None:
    """A bias acts through its layer's output alone, so its pull is p.grad; a weight also acts past it."""
    optimizer = backed(likelihood, exact)
    for layer in layers(optimizer.model):
        W, b = pulled(layer, optimizer.capture.calls[layer])
        torch.testing.assert_close(b, layer.bias.grad)
        assert not torch.allclose(W, layer.weight.grad, rtol=0.01)


def check_one_evaluation() -> None:
    """z and v of the first evaluation are those of dx/dt and the divergence at x(T), differentiated by hand."""
    optimizer = backed(likelihood)
    transform, model = optimizer.model.transform, optimizer.model
    optimizer.remove_hooks()
    x = model().transform(samples()).detach().requires_grad_()
    spy = SpyOfZuko(model)
    dx = transform.f(transform.times[1], x)
    rows = [torch.autograd.grad(dx[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(2)]
    q, q_trace = x.detach() / len(x), -1 / len(x)  # of −log N(x(T)) and of −log|det|
    objective = (dx * q).sum() + q_trace * sum(rows).sum()  # type: ignore[union-attr]
    gradients = torch.autograd.grad(objective, spy.outputs())
    for (module, seen), v in zip(spy.seen.items(), gradients, strict=True):
        call = optimizer.capture.calls[module][0]
        torch.testing.assert_close(call.z, seen[0][0], rtol=1e-3, atol=1e-4)
        T = 1.0
        torch.testing.assert_close(call.v / (call.share * T), v / sum(map(abs, WEIGHTS)), rtol=1e-2, atol=1e-4)


class SpyOfZuko(Spy):
    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.on = True
        for module in layers(model):
            module.register_forward_hook(self.note)


def test_the_pull_of_the_states_path_is_the_gradient() -> None:
    check_without_divergence()


@pytest.mark.parametrize("exact", [True, False])
def test_biases_hear_their_whole_gradient(exact: bool) -> None:
    check_with_divergence(exact)


def test_an_evaluation_is_heard_as_by_hand() -> None:
    check_one_evaluation()


def test_shares_sum_to_a_statistic_that_does_not_depend_on_the_number_of_steps() -> None:
    """Σ (w g)²/share is T² for g = 1 in every evaluation, and so is that of one call with v = T."""
    optimizer = backed(transported)
    calls = optimizer.capture.calls[layers(optimizer.model)[0]]
    assert len(calls) % 5 == 0 and len(calls) > 5
    total = sum(map(abs, WEIGHTS))
    times = [call.share / total for call in calls]  # dt |b|
    assert sum(dt**2 / (total * dt) for dt in times) == pytest.approx(1.0)


def unweighted(real: Any) -> Any:
    return lambda self, T: [one.deposit(1.0) for one in self.heard]


def other_order(real: Any) -> Any:
    return (WEIGHTS[0], *WEIGHTS[2:], WEIGHTS[1])


@pytest.mark.parametrize(
    "owner, name, change", [(replays.Step, "deposit", unweighted), (replays, "WEIGHTS", other_order)]
)
def test_the_weights_are_needed(owner: Any, name: str, change: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, name, change(getattr(owner, name)))
    for check in (check_without_divergence, lambda: check_with_divergence(True)):
        with pytest.raises(AssertionError):
            check()


def test_the_gate_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The divergence sends gradients past the same hooks; were they heard, biases would have more than their own."""
    real = replays.Capture.arrived

    def always(self: Any, *args: Any) -> None:
        with torch.no_grad():
            real(self, *args)

    monkeypatch.setattr(replays.Capture, "arrived", always)
    with pytest.raises((AssertionError, ValueError, RuntimeError)):
        check_with_divergence(False)


def test_training_lowers_the_loss_and_all_layers_take_part() -> None:
    """The model is called without a batch; the layers' own calls show it."""
    model = flow()
    optimizer, x = OCNOpt(model, terminal="gradient"), 0.4 * samples(64) + 1
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = likelihood(model, x)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 1.0
    rows = optimizer.coverage()
    assert len(rows) == 4 and all(row.feedback and row.player == "linear" for row in rows)
    assert model().log_prob(x).shape == (64,)


def test_gradients_thrown_away_and_copies_leave_nothing() -> None:
    optimizer = backed(transported)
    once = {layer: len(calls) for layer, calls in optimizer.capture.calls.items()}
    optimizer.zero_grad()
    twin = copy.deepcopy(optimizer.model)
    transported(twin, samples()).backward()
    assert not optimizer.capture.calls
    transported(optimizer.model, samples()).backward()
    assert {layer: len(calls) for layer, calls in optimizer.capture.calls.items()} == once
    optimizer.remove_hooks()
    assert not isinstance(optimizer.model.transform().f, Listening)


def test_stacks_of_weights_have_the_generic_player() -> None:
    names = ("weight", "bias")
    assert isinstance(find(zuko.nn.Linear(2, 3), names), LinearPlayer)
    assert isinstance(find(zuko.nn.Linear(2, 3, stack=4), names), GenericPlayer)
    assert not linears(flow())
