"""The gains K_t of the feedback policies against explicit matrices, in float64."""

from __future__ import annotations

import dense
import pytest
import torch
from engine import TOLERANCE, Case, Record, close, metric, run_library
from nets import Task, make
from torch import Tensor, nn

from ocnopt.core.policy import policy_of
from ocnopt.curvature import EKFAC, KFAC, SGD, RMSprop
from ocnopt_lab.policies import Feedback, leading
from ocnopt_lab.policies.feedback import feedback_of

CASES = {
    "identity": Case(),
    "rmsprop": Case(curvature=RMSprop()),
    "kfac": Case(curvature=KFAC(fisher="given")),
    "ekfac, gauss-newton": Case(curvature=EKFAC(), terminal="gauss-newton"),
    "gauss-newton": Case(terminal="gauss-newton"),
    "coupled": Case(value="coupled", terminal="gauss-newton"),
    "own gains": Case(value="own-gains", lr=0.05),
    "some samples": Case(samples=3, curvature=SGD()),
    "convolutions": Case(net="conv", terminal="gauss-newton"),
}
by_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def found(case: Case) -> tuple[Task, Record, dict[nn.Module, Feedback]]:
    """The network, a step of the library, and the feedback of each layer that has one."""
    task = make(case.net, case.loss)
    record = run_library(case, task)
    pairs = ((gain.stage.player.modules[0], feedback_of(gain, record.problem.value)) for gain in record.gains)
    return task, record, {module: feedback for module, feedback in pairs if feedback is not None}


def explicit(case: Case, task: Task, record: Record, layer: nn.Module) -> Tensor:
    """K = −M⁻¹ (f_θᵀY)_all C (Zᵀ)_all by derivatives of single numbers: (parameters, N · inputs)."""
    loss, output, z = evaluated(task, layer)
    columns = record.columns
    r, N = columns.shape[:2]
    t = task.layers.index(layer)
    W = dense.sensitivities(output, task.layers, columns)[t]
    g = dense.gradients(loss, task.layers)[t]
    front = [[gradient((columns[j, i] * output[i]).sum(), z)[i].flatten() for j in range(r)] for i in range(N)]
    C = full_core(next(gain.C for gain in record.gains if gain.stage.player.modules[0] is layer))
    weight = len(task.x) / N
    behind = weight * W.reshape(N * r, -1).T
    Z = torch.block_diag(*[torch.stack(rows) for rows in front])
    M = metric(case, task, layer, g, run_columns(case, task, record))
    return -torch.linalg.inv(M) @ behind @ C @ Z


def evaluated(task: Task, layer: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, output, and what entered the layer."""
    entered: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        entered.append(args[0] if args[0].requires_grad else args[0].clone().requires_grad_())
        return (entered[0],)

    with layer.register_forward_pre_hook(keep):
        loss, output = task.evaluate()
    return loss, output, entered[0]


def gradient(number: Tensor, of: Tensor) -> Tensor:
    return torch.autograd.grad(number, of, retain_graph=True)[0]


def full_core(C: Tensor) -> Tensor:
    return C if C.dim() == 2 else torch.block_diag(*C)


def run_columns(case: Case, task: Task, record: Record) -> Tensor:
    """The columns of the whole batch, which the metric has seen."""
    if case.terminal != "true-vs-rest":
        return record.columns
    loss, output = task.evaluate()
    return gradient(loss, output).unsqueeze(0)


def formed(feedback: Feedback) -> Tensor:
    """K, one column for each entry of the state."""
    units = torch.eye(feedback.state_shape.numel(), dtype=torch.float64)
    return torch.stack([dense.flat(feedback.react(unit.view(feedback.state_shape))) for unit in units], dim=1)


@by_case
def test_products_are_those_of_the_matrix(case: Case) -> None:
    task, record, policies = found(case)
    assert len(policies) >= 2
    for t, (layer, feedback) in enumerate(policies.items()):
        K = explicit(case, task, record, layer)
        close(formed(feedback), K, f"K of layer {t}", tolerance=1e-8)
        d = torch.randn(len(K), dtype=torch.float64, generator=torch.Generator().manual_seed(t))
        parts = d.split([shape.numel() for shape in feedback.parameter_shapes])
        pieces = tuple(part.view(shape) for part, shape in zip(parts, feedback.parameter_shapes, strict=True))
        close(feedback.adjoint(pieces).flatten(), K.T @ d, f"Kᵀd of layer {t}", tolerance=1e-8)


@by_case
def test_the_leading_vector_is_that_of_the_full_decomposition(case: Case) -> None:
    task, record, policies = found(case)
    for t, (layer, feedback) in enumerate(policies.items()):
        _, S, Vh = torch.linalg.svd(explicit(case, task, record, layer), full_matrices=False)
        top = leading(feedback)
        assert S[1] < 0.999 * S[0], "another direction is as strong: choose another seed"
        assert top.gain == pytest.approx(float(S[0]), rel=1e-6)
        assert abs(float(top.direction.flatten() @ Vh[0])) == pytest.approx(1.0, abs=1e-6), f"layer {t}"
        assert float(top.shares.sum()) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["identity", "kfac", "coupled"])
def test_the_policy_of_the_library_moves_by_K_times_the_deviation(name: str) -> None:
    """δθ(e + Zᵀδx) − δθ(e) = K δx: the operator is the slope of the policy that trains."""
    _, record, policies = found(CASES[name])
    for gain in record.gains:
        feedback = policies[gain.stage.player.modules[0]]
        deviation = torch.randn(feedback.state_shape, dtype=torch.float64)
        e = torch.zeros_like(gain.response)
        moved = e + torch.einsum("rn...,n...->nr", feedback.entering.flatten(2), deviation.flatten(1))
        before, after = (policy_of(record.problem, gain, x) for x in (e, moved))
        assert before is not None and after is not None
        expected = dense.flat(after[1]) - dense.flat(before[1])
        close(dense.flat(feedback.react(deviation)), expected, gain.stage.label, TOLERANCE)


def test_without_curvature_behind_the_layer_nothing_is_fed_back() -> None:
    _, record, policies = found(CASES["identity"])
    for gain in record.gains:
        gain.C.zero_()
    for feedback in policies.values():
        top = leading(feedback)
        assert top.gain == 0 and not top.direction.any()
