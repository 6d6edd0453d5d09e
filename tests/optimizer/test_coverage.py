"""coverage() tells of every parameter once who moves it and why so; diagnostics() is a flat dict of finite numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from optimizer_cases import (
    METHODS,
    NETWORKS,
    Residual,
    TinyTransformer,
    batch,
    build,
    mlp,
    sentences,
    tokens_loss,
    train,
)
from torch import Tensor, nn

from ocnopt import OCNOpt

every_method = pytest.mark.parametrize(("curvature", "search"), METHODS)


def rows(optimizer: OCNOpt) -> dict[str, tuple[str, str, bool, str]]:
    return {row.parameter: (row.player, row.metric, row.feedback, row.reason) for row in optimizer.coverage()}


def require_complete(optimizer: OCNOpt, model: nn.Module) -> None:
    """Every parameter once, under its name, in words; a reason where and only where feedback is False."""
    listed = [row.parameter for row in optimizer.coverage()]
    assert sorted(listed) == sorted(name for name, _ in model.named_parameters())
    for row in optimizer.coverage():
        assert row.player and row.metric
        assert isinstance(row.feedback, bool)
        assert row.feedback == (row.reason == "")
        assert row.feedback or is_sentence(row.reason), row


def is_sentence(reason: str) -> bool:
    return reason[:1].isupper() and reason.endswith(".") and len(reason.split()) > 3


def step(model: nn.Module, optimizer: OCNOpt, x: Tensor) -> None:
    optimizer.zero_grad()
    tokens_loss(model, x).backward()
    optimizer.step()


@every_method
@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_once_with_a_reason(network: str, curvature: str, search: str) -> None:
    make, draw, loss_of = NETWORKS[network]
    model = make()
    optimizer = build(model, curvature, search)
    require_complete(optimizer, model)
    assert not any(row.feedback for row in optimizer.coverage())
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(model, draw()).backward()
        optimizer.step()
        require_complete(optimizer, model)


SPECIAL = {
    "tokens.weight": ("none", False, "share"),
    "scale": ("none", False, "raw parameter"),
    "attention.in_proj_weight": ("none", False, "raw parameter"),
    "attention.out_proj.weight": ("none", False, "without calling it"),
    "positions.weight": ("embedding", False, "batch of 5 is not the model's batch of 6"),
    "norm.weight": ("layernorm", True, ""),
    "read.bias": ("linear", True, ""),
    "feed.0.weight": ("linear", True, ""),
}
"""Parameter of the transformer: player, feedback, and words of the reason."""


@pytest.mark.parametrize("name", SPECIAL)
def test_the_special_cases_of_a_transformer(name: str) -> None:
    model = TinyTransformer()
    optimizer = OCNOpt(model, curvature="adam")
    step(model, optimizer, sentences())
    player, feedback, words = SPECIAL[name]
    row = rows(optimizer)[name]
    assert (row[0], row[2]) == (player, feedback)
    assert words in row[3]


@pytest.mark.parametrize("name", ["tokens.weight", "scale", "attention.in_proj_weight"])
def test_what_has_no_player_is_known_before_the_first_step(name: str) -> None:
    model = TinyTransformer()
    optimizer = OCNOpt(model, curvature="adam")
    assert rows(optimizer)[name][0] == "none"
    assert SPECIAL[name][2] in rows(optimizer)[name][3]


def test_untied_embeddings_take_part() -> None:
    model = TinyTransformer(tied=False)
    optimizer = OCNOpt(model, curvature="adam")
    step(model, optimizer, sentences())
    assert all(rows(optimizer)[name][2] for name in ("tokens.weight", "read.weight", "read.bias"))


@every_method
def test_a_frozen_layer_is_called_frozen_and_only_while_it_is(curvature: str, search: str) -> None:
    model = mlp()
    model[0].requires_grad_(False)
    optimizer = build(model, curvature, search)
    assert "frozen" in rows(optimizer)["0.weight"][3]
    train(model, optimizer, 2)
    assert "frozen" in rows(optimizer)["0.weight"][3]
    model[0].requires_grad_(True)
    model[3].requires_grad_(False)
    optimizer.zero_grad()
    train(model, optimizer, 2)
    require_complete(optimizer, model)
    assert rows(optimizer)["0.weight"][2]
    assert "frozen" in rows(optimizer)["3.weight"][3]


def test_a_layer_that_is_not_used() -> None:
    model = mlp()
    model.add_module("spare", nn.Linear(3, 3).double())
    forward = nn.Sequential(*list(model.children())[:-1])
    model.forward = lambda x: forward(x)
    optimizer = OCNOpt(model)
    train(model, optimizer, 2)
    require_complete(optimizer, model)
    assert "no gradient" in rows(optimizer)["spare.weight"][3]


def test_parameters_left_out_are_not_listed() -> None:
    model = mlp()
    optimizer = OCNOpt(model, params=model[3].parameters())
    assert set(rows(optimizer)) == {"3.weight", "3.bias"}
    train(model, optimizer, 2)
    assert set(rows(optimizer)) == {"3.weight", "3.bias"}


METRICS = {"sgd": "diagonal", "rmsprop": "diagonal", "adam": "diagonal", "kfac": "kronecker", "ekfac": "eigen"}


@every_method
def test_the_metric_is_named(curvature: str, search: str) -> None:
    """Linear layers have the curvature's own metric, the norm between them the companion's diagonal."""
    model = mlp()
    optimizer = build(model, curvature, search)
    assert {row.metric for row in optimizer.coverage()} == {"none yet"}
    train(model, optimizer, 2)
    assert rows(optimizer)["0.weight"][:2] == ("linear", METRICS[curvature])
    assert rows(optimizer)["2.weight"][:2] == ("layernorm", "diagonal")


@pytest.mark.parametrize("how", [OCNOpt.remove_hooks, OCNOpt.eval], ids=["remove_hooks", "eval"])
def test_without_capture_it_says_so(how: Callable[[OCNOpt], None]) -> None:
    model = mlp()
    optimizer = OCNOpt(model, curvature="adam")
    how(optimizer)
    train(model, optimizer, 2)
    require_complete(optimizer, model)
    assert "captured" in rows(optimizer)["0.weight"][3]


@pytest.mark.parametrize("curvature", ["adam", "ekfac"])
def test_without_feedback_it_says_so(curvature: str) -> None:
    model = mlp()
    optimizer = build(model, curvature, feedback=0.0)
    for number in range(7):
        train(model, optimizer, range(number, number + 1))
        require_complete(optimizer, model)
        assert {reason for _, _, _, reason in rows(optimizer).values()} == {rows(optimizer)["0.weight"][3]}
        assert "feedback=0" in rows(optimizer)["0.weight"][3]


@every_method
@pytest.mark.parametrize("options", [{}, {"value": "coupled"}, {"feedback": 0.0}, {"saturation": None}], ids=str)
def test_diagnostics_are_flat_finite_numbers(curvature: str, search: str, options: dict[str, object]) -> None:
    model = Residual()
    optimizer = build(model, curvature, search, **options)
    for number in range(4):
        seen = optimizer.diagnostics()
        assert seen["steps skipped"] == 0
        assert all(isinstance(key, str) for key in seen)
        assert all(isinstance(value, int | float) and math.isfinite(value) for value in seen.values()), seen
        train(model, optimizer, range(number, number + 1))
    assert seen["step"] == 3
    assert seen["parameters"] == len(list(model.parameters()))
    assert seen["parameters with feedback"] == sum(row.feedback for row in optimizer.coverage())


def test_coverage_and_diagnostics_hold_no_tensor() -> None:
    """They may be logged, kept and pickled."""
    model = mlp()
    optimizer = OCNOpt(model)
    train(model, optimizer, 2)
    optimizer.zero_grad()
    model(batch(0)[0]).sum().backward()
    values = [*optimizer.diagnostics().values(), *(value for row in optimizer.coverage() for value in row)]
    assert not any(isinstance(value, torch.Tensor) for value in values)


@pytest.mark.parametrize("layer", [nn.Linear, nn.RNNCell, nn.GRUCell])
def test_calls_without_a_batch_are_open_loop(layer: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = layer(4, 3)
    optimizer = OCNOpt(model)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.randn(4)).square().sum().backward()
    optimizer.step()
    assert all(row.reason == "No call of its module was captured in this step." for row in optimizer.coverage())
    assert not any(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True) if p.grad.any())
