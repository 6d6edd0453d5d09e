"""E-MSA and dense DDP against derivatives by autograd, in float64 on two layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ocnopt_lab.baselines.chain import chain_of
from ocnopt_lab.baselines.ddp import DenseDDP, Flat, Value, gains_of, value_of
from ocnopt_lab.baselines.emsa import EMSA
from ocnopt_lab.cli import main
from ocnopt_lab.runs.trainer import train_step

B, INPUT, HIDDEN, CLASSES = 3, 2, 4, 3


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(3)
    layers = nn.Flatten(), nn.Linear(INPUT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, CLASSES)
    return nn.Sequential(*layers).double()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    return torch.randn(B, INPUT, dtype=torch.float64), torch.tensor([0, 2, 1])


def flat(layer: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in layer.parameters()])


def dense(theta: Tensor, fan_in: int, fan_out: int, x: Tensor) -> Tensor:
    """A linear layer with its parameters as one vector."""
    return x @ theta[: fan_in * fan_out].view(fan_out, fan_in).T + theta[fan_in * fan_out :]


def last(x: Tensor, theta: Tensor, y: Tensor) -> Tensor:
    """The loss of the last layer, as a function of its input (B·HIDDEN,) and its parameters."""
    return cross_entropy(dense(theta, HIDDEN, CLASSES, x.view(B, HIDDEN)), y)


def first(x: Tensor, theta: Tensor) -> Tensor:
    """What the first layer makes of the batch, (B·HIDDEN,)."""
    return dense(theta, INPUT, HIDDEN, x).tanh().flatten()


def blocks(function, *at: Tensor) -> tuple[tuple[Tensor, ...], list[list[Tensor]]]:
    """Gradients and Hessian blocks by torch.autograd.functional."""
    hessian = torch.autograd.functional.hessian(function, at)
    gradient = torch.autograd.functional.jacobian(function, at)
    return gradient, [list(row) for row in hessian]


def expected_of_the_last_layer(net, batch, mu: float) -> dict[str, Tensor]:
    """All quantities of the last stage from the Hessian of the loss in its input and parameters."""
    x, y = batch
    state = net[2](net[1](x)).detach().flatten()
    (Q_x, Q), ((Q_xx, Q_xt), (_, Q_tt)) = blocks(lambda s, t: last(s, t, y), state, flat(net[3]))
    inverse = torch.linalg.inv(Q_tt + mu * torch.eye(len(Q_tt), dtype=torch.float64))
    k, K = -inverse @ Q, -inverse @ Q_xt.T
    values = {"theta": Q, "theta_theta": Q_tt, "x": Q_x, "theta_x": Q_xt.T, "xx": Q_xx}
    return {**values, "k": k, "K": K, "V_x": Q_x + Q_xt @ k, "V_xx": Q_xx + Q_xt @ K}


def terminal(optimizer: DenseDDP, net, batch) -> Value:
    output = net(batch[0])
    gradient, hessians = optimizer.terminal(cross_entropy(output, batch[1]), output)
    return Value(gradient.flatten(), torch.block_diag(*hessians))


def test_every_quantity_of_the_last_layer_is_that_of_autograd(net, batch) -> None:
    optimizer, mu = DenseDDP(net, lr=0.5), 2.0
    state = net[2](net[1](batch[0])).detach()
    expansion = Flat(optimizer.stages[1], state.shape, 0.0).expanded(
        state.flatten(), terminal(optimizer, net, batch), False
    )
    gains = gains_of(expansion, mu)
    value = value_of(expansion, gains)
    expected = expected_of_the_last_layer(net, batch, mu)
    found = {name: getattr(expansion, name) for name in ("theta", "theta_theta", "x", "theta_x", "xx")}
    for name, tensor in {**found, "k": gains.k, "K": gains.K, "V_x": value.x, "V_xx": value.xx}.items():
        torch.testing.assert_close(
            tensor, expected[name], atol=1e-10, rtol=1e-8, msg=lambda text, n=name: f"{n}: {text}"
        )


def test_a_step_is_that_of_the_dense_recursion(net, batch) -> None:
    """Backwards through both layers, with the exact Hessian of the first one in V, then forwards with feedback."""
    x, mu = batch[0], 4.0
    behind = expected_of_the_last_layer(net, batch, mu)
    theta, end = flat(net[1]), net[2](net[1](x)).detach().flatten()

    def q(t: Tensor) -> Tensor:
        change = first(x, t) - end
        return behind["V_x"] @ change + 0.5 * change @ behind["V_xx"] @ change

    Q, Q_tt = torch.autograd.functional.jacobian(q, theta), torch.autograd.functional.hessian(q, theta)
    k = -torch.linalg.inv(Q_tt + mu * torch.eye(len(Q_tt), dtype=torch.float64)) @ Q
    moved = first(x, theta + k) - end
    expected = theta + k, flat(net[3]) + behind["k"] + behind["K"] @ moved
    step(DenseDDP(net, lr=1 / mu), net, batch)
    torch.testing.assert_close(flat(net[1]), expected[0], atol=1e-10, rtol=1e-8)
    torch.testing.assert_close(flat(net[3]), expected[1], atol=1e-10, rtol=1e-8)


def step(optimizer, net, batch) -> float:
    x, y = batch

    def evaluate() -> tuple[Tensor, Tensor]:
        output = net(x)
        return cross_entropy(output, y), output

    return train_step(optimizer, evaluate)[0].item()


def test_where_the_hessian_is_indefinite_mu_is_raised(net, batch) -> None:
    optimizer = DenseDDP(net)
    x = batch[0]
    curved = Value(torch.zeros(B * HIDDEN, dtype=torch.float64), -torch.eye(B * HIDDEN, dtype=torch.float64))
    expansion = Flat(optimizer.stages[0], x.shape, 0.0).expanded(x.flatten(), curved, True)
    lowest = float(torch.linalg.eigvalsh(expansion.theta_theta)[0])
    assert lowest < -0.1 and expansion.x is None
    gains = gains_of(expansion, 0.01)
    assert gains.K is None and bool(gains.k.isfinite().all())
    shift = next(0.01 * 4.0**j for j in range(30) if 0.01 * 4.0**j > -lowest)
    eye = torch.eye(len(expansion.theta), dtype=torch.float64)
    torch.testing.assert_close(gains.k, -torch.linalg.inv(expansion.theta_theta + shift * eye) @ expansion.theta)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_gradient_of_the_hamiltonian_is_that_of_backpropagation(net, batch, decay: float) -> None:
    optimizer = EMSA(net, lr=0.7, weight_decay=decay)
    x, y = batch
    output = net(x)
    loss = cross_entropy(output, y)
    gradient, _ = optimizer.terminal(loss, output)
    loss.backward()
    with torch.no_grad():
        states = optimizer.states(x)
    for stage, hamiltonian in zip(optimizer.stages, optimizer.hamiltonians(states, gradient), strict=True):
        parameters = {name: p.detach().clone().requires_grad_() for name, p in stage.parameters.items()}
        found = torch.autograd.grad(hamiltonian.negative(parameters), list(parameters.values()))
        for g, p in zip(found, stage.parameters.values(), strict=True):
            torch.testing.assert_close(g, p.grad + decay * p.detach(), atol=1e-12, rtol=1e-9)


def test_the_hamiltonian_holds_states_and_costates_where_they_are(net, batch) -> None:
    """Away from the present parameters −H̃ grows by (ρ/2) of the squared changes of state and costate, per sample."""
    x, y = batch
    optimizer = EMSA(net, lr=0.25)
    output = net(x)
    gradient, _ = optimizer.terminal(cross_entropy(output, y), output)
    with torch.no_grad():
        hamiltonian = optimizer.hamiltonians(optimizer.states(x), gradient)[1]
    stage = hamiltonian.stage
    turn = torch.randn(CLASSES, HIDDEN, dtype=torch.float64)  # a constant one would leave the costates as they are
    moved = {name: p.detach() + (turn if p.dim() == 2 else 0.1) for name, p in stage.parameters.items()}
    change = hamiltonian.x @ turn.T + 0.1
    costates = hamiltonian.p @ turn
    products = (hamiltonian.p * (hamiltonian.y + change)).sum()
    expected = (2.0 * (change.square().sum() + costates.square().sum()) - products) / B
    torch.testing.assert_close(hamiltonian.negative(moved).detach(), expected.detach())


@pytest.mark.parametrize(("kind", "lr"), [(EMSA, 3.0), (DenseDDP, 1.0)])
def test_they_learn(net, batch, kind, lr: float) -> None:
    optimizer = kind(net, lr=lr)
    losses = [step(optimizer, net, batch) for _ in range(8)]
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("kind", [EMSA, DenseDDP])
def test_at_a_rate_of_zero_nothing_moves(net, batch, kind) -> None:
    optimizer, before = kind(net, lr=0.0), flat(net[1])
    step(optimizer, net, batch)
    assert torch.equal(before, flat(net[1]))
    with pytest.raises(RuntimeError, match=r"needs optimizer\.backward\(loss, output\) before each step"):
        optimizer.step()


def test_stages_are_layers_with_what_follows_them() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(4, 3), nn.ReLU()), nn.Tanh(), nn.Linear(3, 2))
    kinds = [[type(module).__name__ for module in stage.module] for stage in chain_of(net, "It")]
    assert kinds == [["Flatten", "Linear", "ReLU", "Tanh"], ["Linear"]]


class Skip(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


@pytest.mark.parametrize(
    ("net", "sentence"),
    [
        (Skip(), r"needs a chain of layers in nn\.Sequential; Skip is none"),
        (nn.Sequential(nn.Linear(2, 2), Skip()), "Skip is none"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "functions of their input alone; BatchNorm1d is none"),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout()), "Dropout is none"),
        (nn.Sequential(nn.Tanh()), "found no layer with parameters"),
        (nn.Sequential(nn.Linear(600, 600)), "layers of at most [0-9]+ parameters, and one has 360600"),
    ],
)
@pytest.mark.parametrize("kind", [EMSA, DenseDDP])
def test_what_is_no_small_chain_is_refused(kind, net: nn.Module, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        kind(net)


def test_a_batch_that_is_too_large_is_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 3))
    x, y = torch.randn(900, 2), torch.arange(900) % 3
    with pytest.raises(ValueError, match="at most 4096 entries together, and one has 4500"):
        step(DenseDDP(net), net, (x, y))


@pytest.mark.parametrize("name", ["emsa", "ddp"])
def test_they_train_from_the_command_line(name: str, npz, capsys) -> None:
    command = ["train", "wine-fcn", "--data", str(npz), "--optimizer.name", name, "--quiet", "--batch-size", "6"]
    assert main([*command, "--epochs", "1", "--train-samples", "12", "--out", "run"]) == 0
    assert main(["train", "resnet-small", "--data", str(npz), "--optimizer.name", name, "--quiet"]) == 2
    assert capsys.readouterr().err
