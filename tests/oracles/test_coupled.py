"""The coupled value is the whole Gauss-Newton step: −(κJᵀHJ + M)⁻¹g over all layers at once."""

from __future__ import annotations

import dense
import pytest
import torch
from engine import Case, close, metric, run_library
from nets import EXACT, Task, make
from torch import Tensor

from ocnopt.core import value
from ocnopt.core.policy import Step
from ocnopt.curvature import EKFAC, KFAC, SGD, Adam, Curvature

LOSSES = ("cross-entropy", "mse", "bce")
CURVATURES: dict[str, Curvature] = {
    "identity": SGD(),
    "adam": Adam(),
    "kfac": KFAC(fisher="given"),
    "ekfac": EKFAC(fisher="given"),
}


def case_of(net: str, curvature: str, loss: str, feedback: float) -> Case:
    lr = 0.05 if curvature == "adam" else 0.4
    options = {"value": "coupled", "terminal": "gauss-newton", "lr": lr, "feedback": feedback}
    return Case(net=net, curvature=CURVATURES[curvature], loss=loss, **options)


def output_hessian(task: Task, output: Tensor) -> Tensor:
    """∂²L/∂out² over all outputs of all samples, (BK, BK)."""
    h = output.detach().flatten()
    return torch.func.hessian(lambda h: task.loss(h.view_as(output), task.y))(h)


def jacobian(output: Tensor, task: Task) -> Tensor:
    """J = ∂out/∂θ over all layers, (BK, p)."""
    return torch.stack([torch.cat(dense.gradients(h, task.layers)) for h in output.flatten()])


def joint_step(case: Case) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
    """−(κJᵀHJ + M)⁻¹g with M block-diagonal over the layers; g and M of every layer; and κH J δθ, (B, K)."""
    task = make(case.net, case.loss)
    loss, output = task.evaluate()
    g, J, H = dense.gradients(loss, task.layers), jacobian(output, task), output_hessian(task, output)
    root = torch.linalg.eigh(H)  # columns only enter M of the Kronecker curvatures, as their sum of squares
    M = [metric(case, task, m, x, columns_of(root, output)) for m, x in zip(task.layers, g, strict=True)]
    step = -torch.linalg.solve(case.feedback * J.T @ H @ J + torch.block_diag(*M), torch.cat(g))
    pulled = case.feedback * J.T @ (H @ (J @ step))
    sizes = [len(x) for x in g]
    return list(step.split(sizes)), g, M, pulled


def columns_of(root: tuple[Tensor, Tensor], output: Tensor) -> Tensor:
    """U (r, B, K) with Σ_r U_i U_iᵀ = H_i."""
    values, vectors = root
    return (vectors * values.clamp(min=0).sqrt()).T.reshape(-1, *output.shape)


def steps_of(case: Case) -> list[Step]:
    return run_library(case, make(case.net, case.loss)).steps


@pytest.mark.parametrize("feedback", [0.3, 1.0])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("curvature", CURVATURES)
def test_equals_one_dense_solve_for_all_layers(curvature: str, loss: str, feedback: float) -> None:
    for net in EXACT:
        case = case_of(net, curvature, loss, feedback)
        expected = joint_step(case)[0]
        for t, (step, wanted) in enumerate(zip(steps_of(case), expected, strict=True)):
            close(dense.flat(step.step), wanted, f"{net}: δθ of layer {t}")


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("net", EXACT)
def test_every_layer_reacts_to_the_whole_deviation(net: str, curvature: str) -> None:
    """−M δθ = Q_θ(open loop) + pull(Y C_T e_T), with C_T and e_T of the library, and with κJᵀHJδθ written out."""
    case = case_of(net, curvature, "cross-entropy", 0.3)
    record = run_library(case, make(net))
    _, g, M, pulled = joint_step(case)
    e = sum(step.response for step in record.steps)
    c = (record.problem.C @ e.flatten()).view_as(e)
    for t, (stage, step) in enumerate(zip(record.problem.stages, record.steps, strict=True)):
        effective = dense.flat(step.effective)
        close(effective, g[t] + dense.flat(stage.pull(c)), f"−Mδθ of layer {t} by pull(Y C_T e_T)")
        close(effective, g[t] + pulled.split([len(x) for x in g])[t], f"−Mδθ of layer {t} by κJᵀHJδθ")
        close(effective, -M[t] @ dense.flat(step.step), f"−M times δθ of layer {t}")


def test_notices_a_lost_feedback_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: κ is dropped from the terminal core."""
    case = case_of("chain", "identity", "mse", 0.3)
    start = value.Coupled.start
    monkeypatch.setattr(value.Coupled, "start", lambda self, C, samples: start(self, C / 0.3, samples))
    with pytest.raises(AssertionError):
        close(dense.flat(steps_of(case)[0].step), joint_step(case)[0][0], "δθ")


def test_notices_that_per_sample_is_not_exact() -> None:
    """Mutation: the samples are not coupled."""
    case = case_of("chain", "identity", "mse", 1.0)
    steps = run_library(Case(net="chain", loss="mse", terminal="gauss-newton"), make("chain", "mse")).steps
    with pytest.raises(AssertionError):
        close(dense.flat(steps[0].step), joint_step(case)[0][0], "δθ")
