"""Densities of flows against distributions that are known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from flow_cases import field, samples, trace_by_rows
from torch import Tensor, nn

from ocnopt import OCNOpt
from ocnopt.ode import Adjoint, Concat, ConcatSquash, ContinuousFlow, Discretised, Exact, Field, Hutchinson
from ocnopt.ode.flows import traces
from ocnopt.ode.flows.traces import divergence

A = torch.tensor([[-0.4, 0.9], [-0.3, 0.6]], dtype=torch.float64)
FINE = Discretised("rk4", step=0.05)


class Affine(nn.Module):
    """F(t, x) = x Aᵀ: x(T) = exp(A T) x, so that the data are normal with covariance exp(−A T) exp(−A T)ᵀ."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2, bias=False, dtype=torch.float64)
        self.linear.weight.data.copy_(A)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return self.linear(x)


def gaussian(T: float) -> torch.distributions.MultivariateNormal:
    back = torch.matrix_exp(-A * T)
    return torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), back @ back.T)


def check_linear_field(T: float = 0.7) -> None:
    flow, x = ContinuousFlow(Affine(), 2, solver=FINE, T=T), samples(20)
    torch.testing.assert_close(flow.log_prob(x), gaussian(T).log_prob(x), rtol=0, atol=1e-7)


def test_a_linear_field_has_the_density_of_its_matrix_exponential() -> None:
    check_linear_field()


def no_trace(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: 0 * real(*args)


def wrong_sign(real: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args: -real(*args)


@pytest.mark.parametrize("change", [no_trace, wrong_sign])
def test_the_density_needs_the_divergence(change: Callable[..., object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ocnopt.ode.flows.flow.divergence", change(divergence))
    with pytest.raises(AssertionError):
        check_linear_field()


def test_the_way_back_is_the_inverse_and_samples_have_the_covariance() -> None:
    flow = ContinuousFlow(Affine(), 2, solver=FINE)
    x = flow.sample(4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(flow.sample(4000, torch.Generator().manual_seed(0)), x)
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(flow(x)[:, :2].detach(), z, rtol=0, atol=1e-6)
    torch.testing.assert_close(x.T.cov(), gaussian(1.0).covariance_matrix, rtol=0.15, atol=0.05)


@pytest.mark.parametrize("solver", [Discretised(rtol=1e-9, atol=1e-9), Adjoint(rtol=1e-9, atol=1e-9)])
def test_densities_and_gradients_are_those_of_a_fine_grid(solver: Discretised) -> None:
    """p.grad is exact, the divergence's part included, whatever the capture passes over."""
    F, x = field(), samples()
    found, expected = ContinuousFlow(F, 2, solver=solver), ContinuousFlow(F, 2, solver=FINE)
    torch.testing.assert_close(found.log_prob(x), expected.log_prob(x), rtol=0, atol=1e-6)
    OCNOpt(found)
    parameters = list(F.parameters())
    one, other = (torch.autograd.grad(flow.log_prob(x).mean(), parameters) for flow in (found, expected))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [Concat, ConcatSquash])
def test_the_exact_trace_is_that_of_the_jacobian(kind: type[nn.Module]) -> None:
    F, x, t = field(kind), samples(), torch.tensor(0.3, dtype=torch.float64)
    found, expected = divergence(F, t, x, Exact().directions(x)), trace_by_rows(F, t, x)
    torch.testing.assert_close(found, expected)
    pairs = (torch.autograd.grad(trace.sum(), list(F.parameters()), allow_unused=True) for trace in (found, expected))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other)


def mean_trace(probes: int) -> None:
    """The mean over all signs in two dimensions, weighed alike, is the trace."""
    F, x, t = field(), samples(), torch.tensor(0.3, dtype=torch.float64)
    signs = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64).unsqueeze(1).expand(2, *x.shape)
    estimates = torch.stack([divergence(F, t, x, s[None]) for s in signs])
    torch.testing.assert_close(estimates.mean(0), trace_by_rows(F, t, x))
    assert not torch.allclose(estimates[0], estimates[1])
    torch.manual_seed(0)
    E = Hutchinson(probes).directions(x)
    assert E.shape == (probes, *x.shape)
    torch.testing.assert_close(E.abs(), torch.full_like(E, probes**-0.5))
    assert (E > 0).any() and (E < 0).any()


def test_random_signs_are_unbiased() -> None:
    mean_trace(3)


def test_signs_stay_the_same_over_a_solve(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    real = Hutchinson.directions
    monkeypatch.setattr(Hutchinson, "directions", lambda self, x: drawn.append(1) or real(self, x))
    for solver in (Discretised("rk4", step=0.5), Adjoint("rk4", step=0.5)):
        drawn.clear()
        ContinuousFlow(field(), 2, "hutchinson", solver).log_prob(samples()).sum().backward()
        assert len(drawn) == 1


def mixture() -> torch.distributions.MixtureSameFamily:
    centres = torch.tensor([[-1.2, 0.3], [1.0, -0.4]])
    parts = torch.distributions.Independent(torch.distributions.Normal(centres, torch.tensor(0.6)), 1)
    return torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.tensor([0.4, 0.6])), parts)


def test_a_trained_flow_finds_the_density_of_a_mixture() -> None:
    """Mean log-likelihoods on new samples differ by less than 0.1, from more than 0.2 before."""
    torch.manual_seed(0)
    truth = mixture()
    flow = ContinuousFlow(Field(2, (16,)), 2, solver=Discretised("rk4", step=0.5))
    optimizer, new = OCNOpt(flow, terminal="gradient"), truth.sample((500,))

    @torch.no_grad()
    def gap() -> float:
        return float((truth.log_prob(new) - flow.log_prob(new)).mean())

    before = gap()
    for _ in range(60):
        x = truth.sample((512,))
        optimizer.zero_grad()
        (-flow.log_prob(x).mean()).backward()
        optimizer.step()
    assert before > 0.2
    assert abs(gap()) < 0.1
    assert all(row.feedback and row.player == "linear" for row in optimizer.coverage())


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="carries samples of shape"):
        ContinuousFlow(field(), 2)(torch.zeros(3, 5, dtype=torch.float64))
    with pytest.raises(ValueError, match="trace='sum' is not known"):
        ContinuousFlow(field(), 2, trace="sum")
    with pytest.raises(ValueError, match="must be a positive number"):
        ContinuousFlow(field(), 2, T=0.0)
    with pytest.raises(ValueError, match="at least one"):
        Hutchinson(0)
    assert traces.trace_of(Exact()) == Exact()


def test_without_torchdiffeq_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match=r"ocnopt\[ode\]"):
        ContinuousFlow(field(), 2)(samples())
