"""Bad input gets a sentence that says what is wrong and what to do; a bad step changes nothing."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from optimizer_cases import CURVATURES, METHODS, batch, build, mlp, one_step, same, snapshot, train, twins
from torch import Tensor, nn
from torch.nn import functional as F

from ocnopt import OCNOpt

INF, NAN = float("inf"), float("nan")

every_method = pytest.mark.parametrize(("curvature", "search"), METHODS)


def says(error: BaseException, *parts: str) -> None:
    """The message holds every part and is a sentence."""
    message = str(error)
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"
    assert message.rstrip().endswith("."), message


# arguments

BAD_NUMBERS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"lr": 0.0}, ("lr=0.0", "positive")),
    ({"lr": -0.1}, ("lr=-0.1", "positive")),
    ({"lr": NAN}, ("lr=nan", "positive")),
    ({"lr": INF}, ("lr=inf", "finite")),
    ({"feedback": -1.0}, ("feedback=-1.0", "negative")),
    ({"feedback": NAN}, ("feedback=nan", "finite")),
    ({"feedback": INF}, ("feedback=inf", "finite")),
    ({"weight_decay": -0.1}, ("weight_decay=-0.1", "negative")),
    ({"weight_decay": NAN}, ("weight_decay=nan", "finite")),
    ({"momentum": -0.9}, ("momentum=-0.9", "negative")),
    ({"momentum": NAN}, ("momentum=nan", "finite")),
    ({"damping": 0.0}, ("damping=0.0", "positive")),
    ({"damping": -1e-3}, ("damping=-0.001", "positive")),
    ({"damping": NAN}, ("damping=nan", "finite")),
    ({"betas": (0.9, 1.0)}, ("betas=(0.9, 1.0)", "[0, 1)")),
    ({"betas": (-0.1, 0.9)}, ("betas=(-0.1, 0.9)", "[0, 1)")),
    ({"betas": (NAN, 0.9)}, ("betas=(nan, 0.9)", "[0, 1)")),
    ({"betas": (0.9,)}, ("betas=(0.9,)", "two numbers")),
    ({"betas": 0.9}, ("betas=0.9", "two numbers")),
    ({"saturation": -1.0}, ("saturation=-1.0", "positive")),
    ({"feedback_samples": 0}, ("feedback_samples=0", "at least 1")),
    ({"curvature_samples": 8}, ("curvature_samples=8 is for value='coupled'", "pass feedback_samples")),
    ({"curvature_samples": 0, "value": "coupled"}, ("curvature_samples=0", "at least 1")),
    ({"curvature_samples": 2.5, "value": "coupled"}, ("curvature_samples=2.5", "whole number")),
    ({"curvature_samples": True, "value": "coupled"}, ("curvature_samples=True", "whole number")),
    (
        {"curvature_samples": 8, "feedback_samples": 8, "value": "coupled"},
        ("curvature_samples=8 and feedback_samples=8 are the same thing", "leave feedback_samples out"),
    ),
]


@pytest.mark.parametrize(("options", "parts"), BAD_NUMBERS, ids=[str(options) for options, _ in BAD_NUMBERS])
@pytest.mark.parametrize("curvature", CURVATURES)
def test_numbers_that_make_no_sense(curvature: str, options: dict[str, Any], parts: tuple[str, ...]) -> None:
    for search in ("fixed", "model"):
        with pytest.raises(ValueError, match=re.escape(next(iter(options)))) as caught:
            OCNOpt(mlp(), curvature=curvature, search=search, **options)
        says(caught.value, *parts)


@pytest.mark.parametrize("lr", [0.0, -1.0, NAN, INF])
def test_a_bad_rate_of_one_group(lr: float) -> None:
    model = mlp()
    with pytest.raises(ValueError, match="lr=") as caught:
        OCNOpt(model, params=[{"params": model[0].parameters()}, {"params": model[3].parameters(), "lr": lr}])
    says(caught.value, f"lr={lr}", "positive")


NAMES = {
    "curvature": ("sgd", "rmsprop", "adam", "kfac", "ekfac"),
    "terminal": ("auto", "gradient", "true-vs-rest", "gauss-newton", "fisher"),
    "value": ("per-sample", "coupled"),
    "rollout": ("linear", "nonlinear"),
    "search": ("fixed", "model"),
}


@pytest.mark.parametrize("argument", NAMES)
def test_an_unknown_name_lists_the_known_ones(argument: str) -> None:
    with pytest.raises(ValueError, match="nonsense") as caught:
        OCNOpt(mlp(), **{argument: "nonsense"})
    says(caught.value, f"{argument}='nonsense'", *map(repr, NAMES[argument]))


@pytest.mark.parametrize("argument", NAMES)
@pytest.mark.parametrize("wrong", [3, True, ["adam"]], ids=repr)
def test_something_that_is_no_option_at_all(argument: str, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        OCNOpt(mlp(), **{argument: wrong})
    says(caught.value, argument, repr(wrong), *map(repr, NAMES[argument]))


# models and parameters


@pytest.mark.parametrize("make", [nn.ReLU, lambda: mlp().requires_grad_(False)], ids=["no-parameters", "all-frozen"])
def test_nothing_to_train(make: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match="no trainable parameters") as caught:
        OCNOpt(make())
    says(caught.value, type(make()).__name__, "requires_grad")


@pytest.mark.parametrize("wrong", [lambda m: m.parameters(), lambda m: list(m.parameters()), lambda m: m.forward])
def test_parameters_in_place_of_the_model(wrong: Callable[[nn.Module], Any]) -> None:
    with pytest.raises(TypeError, match=r"nn\.Module") as caught:
        OCNOpt(wrong(mlp()))
    assert type(wrong(mlp())).__name__ in str(caught.value)
    assert "OCNOpt(model)" in str(caught.value)


def test_parameters_of_another_model() -> None:
    with pytest.raises(ValueError, match="2 of the parameters") as caught:
        OCNOpt(mlp(), params=[*mlp()[0].parameters()])
    says(caught.value, "do not belong to the model", "pass the module")


def test_a_refused_group_leaves_no_hooks_behind() -> None:
    model = mlp()
    with pytest.raises(ValueError, match="do not belong"):
        OCNOpt(model, params=mlp().parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_sparse_gradient_is_named() -> None:
    model = nn.Sequential(nn.Embedding(5, 3, sparse=True), nn.Linear(3, 2))
    optimizer = OCNOpt(model, curvature="adam")
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(RuntimeError, match="sparse") as caught:
        optimizer.step()
    says(caught.value, "0.weight", "sparse=False")


# optimizer.backward


def test_backward_of_many_losses() -> None:
    model = mlp()
    optimizer = OCNOpt(model)
    output = model(batch(0)[0])
    with pytest.raises(ValueError, match="shape") as caught:
        optimizer.backward(F.cross_entropy(output, batch(0)[1], reduction="none"), output)
    says(caught.value, "(8,)", "loss.mean()")


DETACHED: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "output-without-graph": lambda loss, output: (loss, output.detach()),
    "loss-without-graph": lambda loss, output: (loss.detach(), output),
    "unrelated-output": lambda loss, output: (loss, output * 1.0),
}


@pytest.mark.parametrize("case", DETACHED)
@pytest.mark.parametrize("terminal", ["auto", "gauss-newton", "fisher", "gradient"])
def test_backward_with_an_output_the_loss_does_not_come_from(case: str, terminal: str) -> None:
    model = mlp()
    optimizer = OCNOpt(model, terminal=terminal)
    x, y = batch(0)
    output = model(x)
    with pytest.raises(ValueError, match=r"graph|computed from") as caught:
        optimizer.backward(*DETACHED[case](F.cross_entropy(output, y), output))
    says(caught.value, "output" if "output" in case else "loss")


@pytest.mark.parametrize("terminal", ["gauss-newton", "fisher"])
@every_method
def test_a_terminal_of_higher_rank_after_a_plain_backward(terminal: str, curvature: str, search: str) -> None:
    """The sentence comes before anything has changed, and the right call then works."""
    model = mlp()
    optimizer = build(model, curvature, search, terminal=terminal)
    before = snapshot(model, optimizer)
    with pytest.raises(ValueError, match=r"optimizer\.backward") as caught:
        one_step(model, optimizer, *batch(0))
    says(caught.value, f"terminal='{terminal}'", "optimizer.backward(loss, output)")
    assert same(before, snapshot(model, optimizer))
    optimizer.zero_grad()
    output = model(batch(0)[0])
    optimizer.backward(F.cross_entropy(output, batch(0)[1]), output)
    optimizer.step()
    assert not same(before[0], model.state_dict())


def test_true_vs_rest_without_a_cross_entropy_names_the_ways_out() -> None:
    model = mlp()
    optimizer = OCNOpt(model, terminal="true-vs-rest")
    model(batch(0)[0]).pow(4).mean().backward()
    with pytest.raises(ValueError, match="true-vs-rest") as caught:
        optimizer.step()
    says(caught.value, "optimizer.backward(loss, output)", "terminal='gradient'")


# steps that are not finite


def bad_gradient(value: float) -> Callable[[nn.Module, OCNOpt], None]:
    def spoil(model: nn.Module, optimizer: OCNOpt) -> None:
        optimizer.zero_grad()
        x, y = batch(50)
        F.cross_entropy(model(x), y).backward()
        model[3].weight.grad[0, 0] = value
        optimizer.step()

    return spoil


def bad_input(model: nn.Module, optimizer: OCNOpt) -> None:
    x, y = batch(50)
    one_step(model, optimizer, x.fill_(NAN), y)


def bad_closure(model: nn.Module, optimizer: OCNOpt) -> None:
    """The gradients are fine, the loss that the closure returns is not."""

    def closure() -> Tensor:
        optimizer.zero_grad()
        x, y = batch(50)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss * NAN

    optimizer.step(closure)


def bad_backward(model: nn.Module, optimizer: OCNOpt) -> None:
    """optimizer.backward meets the loss that is not finite."""
    optimizer.zero_grad()
    output = model(batch(50)[0] * INF)
    optimizer.backward(F.cross_entropy(output, batch(50)[1]), output)
    optimizer.step()


SPOILS: dict[str, Callable[[nn.Module, OCNOpt], None]] = {
    "nan-gradient": bad_gradient(NAN),
    "inf-gradient": bad_gradient(INF),
    "nan-input": bad_input,
    "closure": bad_closure,
    "backward": bad_backward,
}


@every_method
@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("warm", [0, 3], ids=["first-step", "later"])
def test_a_bad_step_changes_nothing(curvature: str, search: str, spoil: str, warm: int) -> None:
    """Parameters, running averages and clock stay as they are, and what follows is as if it had not been."""
    model, other = twins(mlp)
    optimizer, undisturbed = build(model, curvature, search), build(other, curvature, search)
    train(model, optimizer, warm)
    train(other, undisturbed, warm)
    before = snapshot(model, optimizer)
    with pytest.warns(UserWarning, match="skipped a step") as caught:
        SPOILS[spoil](model, optimizer)
        SPOILS[spoil](model, optimizer)
    assert len(caught) == 1
    assert "diagnostics()['steps skipped']" in str(caught[0].message)
    assert optimizer.diagnostics()["steps skipped"] == 2
    assert same(before, snapshot(model, optimizer))
    train(model, optimizer, range(warm, warm + 3))
    train(other, undisturbed, range(warm, warm + 3))
    assert same(snapshot(model, optimizer), snapshot(other, undisturbed))


def test_the_warning_points_at_the_caller() -> None:
    model = mlp()
    optimizer = OCNOpt(model)
    with pytest.warns(UserWarning, match="skipped a step") as caught:
        SPOILS["nan-gradient"](model, optimizer)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("scale", [1e20, 1e30])
def test_a_large_gradient_is_finite(scale: float) -> None:
    """Its square overflows in float32, itself it does not: the step must not be skipped."""
    model = mlp(torch.float32)
    optimizer = OCNOpt(model, curvature="adam", search="fixed")
    train(model, optimizer, 1)
    for p in model.parameters():
        p.grad = torch.full_like(p, scale)
    optimizer.step()
    assert optimizer.diagnostics()["steps skipped"] == 0


# decompositions that fail


@pytest.fixture
def quiet() -> Iterator[None]:
    """No warning may come with a fallback."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def failing_eigh(*args: Any, **kwargs: Any) -> Any:
    raise torch.linalg.LinAlgError("did not converge")


def failing_cholesky(A: Tensor, *args: Any, **kwargs: Any) -> Any:
    return torch.full_like(A, NAN), torch.ones(A.shape[:-2], dtype=torch.int32)


def nan_eigh(A: Tensor, *args: Any, **kwargs: Any) -> Any:
    return torch.full_like(A[..., 0], NAN), torch.full_like(A, NAN)


BREAKS: dict[str, tuple[str, str, Callable[..., Any]]] = {
    "eigh-raises": ("ekfac", "eigh", failing_eigh),
    "eigh-nan": ("ekfac", "eigh", nan_eigh),
    "cholesky-fails": ("kfac", "cholesky_ex", failing_cholesky),
}
"""Curvature, the function of torch.linalg that breaks, and how."""


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("broken", BREAKS)
@pytest.mark.parametrize("search", ["fixed", "model"])
@pytest.mark.parametrize("warm", [0, 2], ids=["from-the-start", "later"])
def test_training_goes_on_when_decompositions_fail(
    broken: str, search: str, warm: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    curvature, name, replacement = BREAKS[broken]
    model = mlp()
    optimizer = build(model, curvature, search)
    train(model, optimizer, warm)
    monkeypatch.setattr(torch.linalg, name, replacement)
    before = copy.deepcopy(model)
    losses = train(model, optimizer, range(warm, warm + 4))
    assert optimizer.diagnostics()["decomposition failed"] >= 3
    assert all(torch.isfinite(torch.tensor(losses)))
    assert all(bool(p.isfinite().all()) and not torch.equal(p, q) for p, q in pairs(model, before))
    monkeypatch.undo()
    train(model, optimizer, range(warm + 4, warm + 30))
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def pairs(a: nn.Module, b: nn.Module) -> list[tuple[Tensor, Tensor]]:
    return [(p.detach(), q.detach()) for p, q in zip(a.parameters(), b.parameters(), strict=True)]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("curvature", ["kfac", "ekfac"])
@pytest.mark.parametrize("search", ["fixed", "model"])
def test_training_goes_on_with_a_factor_that_is_not_finite(curvature: str, search: str) -> None:
    """A factor spoilt in memory (a bad checkpoint, a bit flip) is met by the fallback and counted."""
    model = mlp()
    optimizer = build(model, curvature, search)
    train(model, optimizer, 2)
    optimizer.state[model[0].weight]["A"].fill_(NAN)
    train(model, optimizer, range(2, 6))
    assert optimizer.diagnostics()["state begun anew"] == 1
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("curvature", ["kfac", "ekfac"])
def test_evidence_that_overflows_never_enters_an_average(curvature: str) -> None:
    """Inputs of 1e25 have finite gradients here but squares that are not finite in float32."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 3))
    optimizer = build(model, curvature)
    x, y = batch(0, dtype=torch.float32)
    one_step(model, optimizer, x, y)
    one_step(model, optimizer, x * 1e25, y)
    tensors = [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]
    assert optimizer.diagnostics()["steps skipped"] == 0
    assert optimizer.diagnostics()["statistics not finite"] >= 1
    assert all(bool(t.isfinite().all()) for t in tensors)
    assert all(bool(p.isfinite().all()) for p in model.parameters())
