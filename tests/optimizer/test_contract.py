"""OCNOpt is a torch.optim.Optimizer: whatever AdamW's users do with it works, and gives the same weights."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optimizer_cases import (
    CURVATURES,
    METHODS,
    NETWORKS,
    Residual,
    TinyTransformer,
    batch,
    build,
    hooks_of,
    mlp,
    one_step,
    same,
    sentences,
    snapshot,
    tokens_loss,
    train,
    twins,
    weights,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ocnopt import OCNOpt
from ocnopt.curvature import TABLE, Curvature
from ocnopt_lab.acceptance.run import distance

every_curvature = pytest.mark.parametrize("curvature", CURVATURES)
every_method = pytest.mark.parametrize(("curvature", "search"), METHODS)

Run = tuple[nn.Module, OCNOpt]


def given(curvature: str) -> Curvature | str:
    """The curvature without draws of labels, whose random numbers depend on how the batch is cut."""
    return TABLE[curvature](fisher="given") if curvature in ("kfac", "ekfac") else curvature


def pair(name: str, search: str = "fixed", make: Callable[[], nn.Module] = mlp, **options: Any) -> tuple[Run, Run]:
    a, b = twins(make)
    return (a, build(a, name, search, **options)), (b, build(b, name, search, **options))


def finite(model: nn.Module) -> bool:
    return all(bool(p.isfinite().all()) for p in model.parameters())


# closures


@every_method
def test_a_closure_changes_nothing(curvature: str, search: str) -> None:
    (model, optimizer), (other, plain) = pair(curvature, search)
    for step in range(5):
        x, y = batch(step)

        def closure(x: Tensor = x, y: Tensor = y) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        assert optimizer.step(closure).item() == one_step(other, plain, x, y)
    assert same(snapshot(model, optimizer), snapshot(other, plain))


@every_curvature
def test_zero_grad_both_ways(curvature: str) -> None:
    (model, optimizer), (other, plain) = pair(curvature)
    for step in range(4):
        for net, opt, to_none in ((model, optimizer, True), (other, plain, False)):
            opt.zero_grad(set_to_none=to_none)
            F.cross_entropy(net(batch(step)[0]), batch(step)[1]).backward()
            opt.step()
    assert same(weights(model), weights(other))


# saving, loading, copying


def reloaded(optimizer: OCNOpt) -> Any:
    """The state_dict through a file that is read safely."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@every_method
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("cut", [0, 2, 11])
def test_resume_equals_uninterrupted(curvature: str, search: str, dtype: torch.dtype, cut: int) -> None:
    model = mlp(dtype)
    optimizer = build(model, curvature, search)
    train(model, optimizer, cut)
    weights_then, state_then = copy.deepcopy(model.state_dict()), reloaded(optimizer)
    train(model, optimizer, range(cut, cut + 15))
    other = mlp(dtype, seed=1)
    other.load_state_dict(weights_then)
    resumed = build(other, curvature, search, lr=123.0)
    resumed.load_state_dict(state_then)
    assert same(resumed.state_dict(), state_then)
    train(other, resumed, range(cut, cut + 15))
    assert same(snapshot(model, optimizer), snapshot(other, resumed))


@every_method
def test_loading_does_not_alias_what_was_loaded(curvature: str, search: str) -> None:
    model = mlp()
    optimizer = build(model, curvature, search)
    train(model, optimizer, 3)
    state = reloaded(optimizer)
    untouched = copy.deepcopy(state)
    optimizer.load_state_dict(state)
    train(model, optimizer, 3)
    assert same(state, untouched)


@pytest.mark.parametrize("curvature", ["kfac", "ekfac"])
def test_factors_stay_float32_under_bfloat16_parameters(curvature: str) -> None:
    model = mlp(torch.bfloat16)
    optimizer = build(model, curvature)
    train(model, optimizer, 3)
    factors = {"A", "B", "S", "U_A", "U_B", "inverse_A", "inverse_B"}
    for opt in (optimizer, build(model, curvature)):
        opt.load_state_dict(reloaded(optimizer))
        seen = {name: t.dtype for s in opt.state.values() for name, t in s.items() if name in factors}
        assert {"A", "B"} <= seen.keys()
        assert set(seen.values()) == {torch.float32}
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())


def by_pickle(x: Any) -> Any:
    return pickle.loads(pickle.dumps(x))


def by_torch(x: Any) -> Any:
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {"deepcopy": copy.deepcopy, "pickle": by_pickle, "torch.save": by_torch}

every_copy = pytest.mark.parametrize("how", COPIES)


@every_copy
@every_method
def test_a_copy_of_model_and_optimizer_trains_the_same_by_itself(how: str, curvature: str, search: str) -> None:
    model = mlp()
    optimizer = build(model, curvature, search)
    train(model, optimizer, 3)
    before = snapshot(model, optimizer)
    other, copied = COPIES[how]((model, optimizer))
    assert copied.model is other
    train(other, copied, range(3, 8))
    assert same(before, snapshot(model, optimizer))
    train(model, optimizer, range(3, 8))
    assert same(snapshot(model, optimizer), snapshot(other, copied))


@every_copy
def test_a_copy_leaves_the_scheduler_and_the_users_hooks_behind(how: str) -> None:
    """A scheduler patches ``step`` on the instance; a copy that took the patch along would step the original."""
    model = mlp()
    optimizer = build(model, "adam")
    torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    optimizer.register_step_post_hook(lambda *_: None)
    other, copied = COPIES[how]((model, optimizer))
    before = weights(model)
    train(other, copied, 2)
    assert same(before, weights(model))
    assert distance(model, other) > 1e-4


@every_copy
def test_a_copy_of_the_model_alone_is_inert(how: str) -> None:
    """Forward and backward of an average or a checkpoint must not reach the optimizer of the original."""
    (model, optimizer), (other, plain) = pair("ekfac", "model")
    for step in range(4):
        average = COPIES[how](model)
        x, y = batch(step)
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        F.cross_entropy(average(x * 3), y).backward()
        loss.backward()
        optimizer.step()
        one_step(other, plain, x, y)
    assert same(snapshot(model, optimizer), snapshot(other, plain))


# hooks


@every_method
def test_remove_hooks_takes_all_of_them(curvature: str, search: str) -> None:
    model = nn.Sequential(mlp(), nn.Linear(3, 3).double())
    none = hooks_of(model)
    optimizer = build(model, curvature, search)
    assert hooks_of(model) > none
    train(model, optimizer, 3)
    optimizer.remove_hooks()
    assert hooks_of(model) == none == 0
    before = weights(model)
    train(model, optimizer, range(3, 6))
    assert finite(model)
    assert all(not torch.equal(p, q) for p, q in zip(before, weights(model), strict=True))
    optimizer.remove_hooks()


def test_hooks_go_with_the_optimizer() -> None:
    model = mlp()
    optimizer = build(model, "ekfac")
    train(model, optimizer, 2)
    del optimizer
    gc.collect()
    assert hooks_of(model) == 0


@pytest.mark.parametrize("how", COPIES)
def test_hooks_do_not_pile_up_over_generations_of_copies(how: str) -> None:
    model = mlp()
    both = (model, build(model, "ekfac"))
    start = hooks_of(model)
    for _ in range(3):
        both = COPIES[how](both)
    gc.collect()
    assert hooks_of(both[0]) <= 2 * start


def test_removed_hooks_stay_removed_when_a_group_is_added() -> None:
    model = mlp()
    optimizer = OCNOpt(model, params=model[0].parameters())
    optimizer.remove_hooks()
    optimizer.add_param_group({"params": model[3].parameters()})
    assert hooks_of(model) == 0


# modes


@every_method
def test_eval_stops_capturing_and_train_goes_on(curvature: str, search: str) -> None:
    """A forward and backward between eval() and train() leaves no trace beside its gradients."""
    (model, optimizer), (other, plain) = pair(curvature, search)
    for step in range(4):
        optimizer.eval()
        F.cross_entropy(model(batch(99)[0] * 2), batch(99)[1]).backward()
        optimizer.train()
        train(model, optimizer, range(step, step + 1))
    train(other, plain, 4)
    assert same(snapshot(model, optimizer), snapshot(other, plain))


@every_method
def test_validation_between_steps(curvature: str, search: str) -> None:
    (model, optimizer), (other, plain) = pair(curvature, search)
    for step in range(4):
        train(model, optimizer, range(step, step + 1))
        model.eval()
        with torch.no_grad():
            model(batch(99)[0])
        model(batch(99)[0])
        model.train()
        with torch.no_grad():
            model(batch(99)[0])
    train(other, plain, 4)
    assert same(snapshot(model, optimizer), snapshot(other, plain))


@every_method
def test_training_in_eval_mode_works(curvature: str, search: str) -> None:
    """Fine-tuning with dropout and batch statistics off: nothing is captured, every parameter still moves."""
    model = mlp().eval()
    before = weights(model)
    train(model, build(model, curvature, search), 3)
    assert finite(model)
    assert all(not torch.equal(p, q) for p, q in zip(before, weights(model), strict=True))


# schedules and groups

SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "one-cycle": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, 12),
    "cosine": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8),
    "linear-to-zero": lambda optimizer: torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 6),
    "warm-up-from-zero": lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: min(1, epoch / 4)
    ),
}


@every_method
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules(curvature: str, search: str, schedule: str) -> None:
    """The rate follows the schedule, and a rate of zero moves nothing and breaks nothing."""
    model = mlp()
    optimizer = build(model, curvature, search)
    scheduler = SCHEDULES[schedule](optimizer)
    for step in range(10):
        before = weights(model)
        train(model, optimizer, range(step, step + 1))
        assert finite(model), f"step {step} at lr={optimizer.param_groups[0]['lr']}"
        moved = not same(before, weights(model))
        assert moved == (optimizer.param_groups[0]["lr"] > 0)
        scheduler.step()


@every_method
def test_a_group_of_its_own_rate(curvature: str, search: str) -> None:
    model, other = twins(mlp)
    lr = CURVATURES[curvature]
    tail = [p for layer in model[1:] for p in layer.parameters()]
    groups = [{"params": model[0].parameters(), "lr": 1e-12}, {"params": tail, "lr": lr}]
    train(model, build(model, curvature, search, params=groups), 3)
    assert distance(model[0], other[0]) < 1e-8
    assert distance(model[3], other[3]) > 1e-4


@every_method
def test_a_group_added_later_trains(curvature: str, search: str) -> None:
    model = mlp()
    optimizer = build(model, curvature, search, params=[*model[3].parameters(), *model[5].parameters()])
    start, count = copy.deepcopy(model), hooks_of(model)
    train(model, optimizer, 2)
    assert distance(model[0], start[0]) == 0
    optimizer.add_param_group({"params": [*model[0].parameters(), *model[2].parameters()]})
    assert hooks_of(model) > count
    train(model, optimizer, range(2, 5))
    assert distance(model[0], start[0]) > 0
    assert finite(model)


def test_a_bad_group_is_refused_and_forgotten() -> None:
    model = mlp()
    optimizer = OCNOpt(model, params=model[0].parameters())
    for group, words in (
        ({"params": mlp().parameters()}, "belong"),
        ({"params": model[3].parameters(), "lr": -1}, "lr="),
    ):
        with pytest.raises(ValueError, match=words):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    assert "steps skipped" in optimizer.diagnostics()
    train(model, optimizer, 2)


def test_adding_a_group_keeps_the_counts() -> None:
    model = mlp()
    optimizer = OCNOpt(model, params=model[0].parameters())
    with pytest.warns(UserWarning, match="skipped"):
        one_step(model, optimizer, batch(0)[0] * float("nan"), batch(0)[1])
    optimizer.add_param_group({"params": model[3].parameters()})
    assert optimizer.diagnostics()["steps skipped"] == 1


@every_method
@pytest.mark.parametrize("layer", [0, 3])
@pytest.mark.parametrize("name", ["weight", "bias", "both"])
def test_parameters_frozen_for_a_while(curvature: str, search: str, layer: int, name: str) -> None:
    """What is frozen stays; what trains goes on, with the statistics of other shapes that this may need."""
    model = mlp()
    optimizer = build(model, curvature, search)
    frozen = [p for key, p in model[layer].named_parameters() if name in (key, "both")]
    train(model, optimizer, 3)
    for p in frozen:
        p.requires_grad_(False)
    before = [p.clone() for p in frozen]
    train(model, optimizer, range(3, 6))
    assert same(before, [p.clone() for p in frozen])
    for p in frozen:
        p.requires_grad_(True)
    train(model, optimizer, range(6, 30))
    assert finite(model)
    assert all(not torch.equal(p, q) for p, q in zip(before, frozen, strict=True))


# gradients that the user changes


@every_curvature
@pytest.mark.parametrize("value", ["per-sample", "coupled"])
def test_two_micro_batches_equal_one_batch(curvature: str, value: str) -> None:
    options = {"feedback": 1.0, "value": value, "curvature": given(curvature)}
    (model, optimizer), (other, plain) = pair(curvature, **options)
    for step in range(6):
        x, y = batch(step)
        optimizer.zero_grad()
        for part in (slice(0, 4), slice(4, 8)):
            (F.cross_entropy(model(x[part]), y[part]) / 2).backward()
        optimizer.step()
        one_step(other, plain, x, y)
        assert distance(model, other) < 1e-11, f"step {step}"


@every_method
def test_micro_batches_may_all_run_forward_before_they_run_backward(curvature: str, search: str) -> None:
    (model, optimizer), (other, plain) = pair(curvature, search)
    for step in range(4):
        x, y = batch(step)
        for net, opt, together in ((model, optimizer, True), (other, plain, False)):
            opt.zero_grad()
            losses = []
            for part in (slice(0, 4), slice(4, 8)):
                losses.append(F.cross_entropy(net(x[part]), y[part]) / 2)
                if not together:
                    losses.pop().backward()
            for loss in losses:
                loss.backward()
            opt.step()
    assert distance(model, other) < 1e-12


@every_method
def test_clipping(curvature: str, search: str) -> None:
    """A clip that does not bind changes nothing; one that binds hard leaves a small, finite step at a fixed rate."""
    (model, optimizer), (other, plain) = pair(curvature, search)
    for net, opt, limit in ((model, optimizer, 1e6), (other, plain, None)):
        clipped_steps(net, opt, limit)
    assert same(weights(model), weights(other))
    clipped_steps(model, optimizer, 1e-3)
    assert finite(model)


def clipped_steps(model: nn.Module, optimizer: OCNOpt, limit: float | None) -> None:
    for step in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(batch(step)[0]), batch(step)[1]).backward()
        if limit is not None:
            nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()


# activation checkpointing


@every_method
@pytest.mark.parametrize("reentrant", [False, True], ids=["saved-tensor-hooks", "reentrant"])
def test_checkpointing_equals_without(curvature: str, search: str, reentrant: bool) -> None:
    """The reentrant kind forbids passes for some inputs only, so it is compared without draws of labels."""
    chosen = given(curvature) if reentrant else curvature
    plain, checked = Residual(), Residual(checkpoint=True, reentrant=reentrant)
    a, b = build(plain, curvature, search, curvature=chosen), build(checked, curvature, search, curvature=chosen)
    for step in range(5):
        one_step(plain, a, *batch(step))
        one_step(checked, b, *batch(step))
        assert distance(plain, checked) < 1e-12, f"step {step}"
    assert covered(a) == covered(b)


def covered(optimizer: OCNOpt) -> list[tuple[str, bool]]:
    return [(row.parameter, row.feedback) for row in optimizer.coverage()]


@every_curvature
@pytest.mark.parametrize("reentrant", [False, True], ids=["saved-tensor-hooks", "reentrant"])
def test_checkpointed_micro_batches_belong_to_their_own_sweep(curvature: str, reentrant: bool) -> None:
    """Both run forward first; what a checkpoint runs again on the way back is not of the last of them."""
    nets = Residual(), Residual(checkpoint=True, reentrant=reentrant)
    runs = [(net, build(net, curvature, curvature=given(curvature))) for net in nets]
    for step in range(3):
        x, y = batch(step)
        for net, opt in runs:
            opt.zero_grad()
            losses = [F.cross_entropy(net(x[part]), y[part]) / 2 for part in (slice(0, 5), slice(5, 8))]
            for loss in losses:
                loss.backward()
            opt.step()
    assert distance(*nets) < 1e-12


def test_columns_and_a_reentrant_checkpoint_are_refused_in_a_sentence() -> None:
    model = Residual(checkpoint=True, reentrant=True)
    optimizer = OCNOpt(model, terminal="gauss-newton")
    output = model(batch(0)[0])
    with pytest.raises(ValueError, match="use_reentrant=False"):
        optimizer.backward(F.cross_entropy(output, batch(0)[1]), output)


@pytest.mark.parametrize("curvature", ["kfac", "ekfac"])
def test_reentrant_checkpointing_trains_with_the_defaults(curvature: str) -> None:
    model = Residual(checkpoint=True, reentrant=True)
    losses = train(model, build(model, curvature, "model"), 12)
    assert finite(model)
    assert losses[-1] < losses[0]


# networks


@every_method
@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_of_a_real_network_moves(network: str, curvature: str, search: str) -> None:
    make, draw, loss_of = NETWORKS[network]
    model = make()
    optimizer = build(model, curvature, search)
    before, x, losses = weights(model), draw(), []
    for _ in range(12):
        optimizer.zero_grad()
        loss = loss_of(model, x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert finite(model)
    still = [n for (n, p), q in zip(model.named_parameters(), before, strict=True) if torch.equal(p, q)]
    assert not still
    assert min(losses[-3:]) < losses[0]
    assert optimizer.diagnostics()["steps skipped"] == 0


@pytest.mark.parametrize("curvature", ["sgd", "rmsprop", "adam"])
def test_tied_weights_are_moved_once(curvature: str) -> None:
    """With feedback off a tied network follows torch's optimizer too."""
    kinds = {"sgd": torch.optim.SGD, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.AdamW}
    model, other = twins(lambda: TinyTransformer().double())
    lr = CURVATURES[curvature]
    options = {"adam": {"weight_decay": 0.1}, "sgd": {"momentum": 0.9}}.get(curvature, {})
    ours = OCNOpt(model, lr, curvature, search="fixed", feedback=0.0, **options)
    kernel = {"fused": True} if curvature == "adam" else {}  # ours; Adam makes steps of gradients that are rounding
    theirs = kinds[curvature](other.parameters(), lr, **options, **kernel)
    for _ in range(5):
        for net, opt in ((model, ours), (other, theirs)):
            opt.zero_grad()
            tokens_loss(net, sentences()).backward()
            opt.step()
        assert distance(model, other) < 1e-12


@every_method
@pytest.mark.parametrize("network", ["mlp", "cnn", "transformer", "gru"])
def test_autocast(network: str, curvature: str, search: str) -> None:
    make, draw, loss_of = NETWORKS[network]
    model = make()
    optimizer = build(model, curvature, search)
    x, losses = draw(), []
    for _ in range(12):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, x)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert finite(model)
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert min(losses[-3:]) < losses[0]
    half = [
        name for s in optimizer.state.values() for name, t in s.items() if getattr(t, "dtype", None) == torch.bfloat16
    ]
    assert not half


@every_method
def test_step_inside_autocast_is_the_step_outside(curvature: str, search: str) -> None:
    (model, optimizer), (other, plain) = pair(curvature, search, lambda: mlp(torch.float32))
    for step in range(3):
        for net, opt, inside in ((model, optimizer, True), (other, plain, False)):
            opt.zero_grad()
            F.cross_entropy(net(batch(step, dtype=torch.float32)[0]), batch(step)[1]).backward()
            with torch.autocast("cpu", torch.bfloat16, enabled=inside):
                opt.step()
    assert same(weights(model), weights(other))


# what a step leaves behind


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())


@every_method
def test_nothing_grows(curvature: str, search: str) -> None:
    """200 steps, each with a forward pass that is thrown away: hooks constant, no object and no tensor left over."""
    model = mlp(torch.float32)
    optimizer = build(model, curvature, search)
    outputs: list[weakref.ref[Tensor]] = []
    counts, hooks = [], []
    for step in range(200):
        outputs.append(weakref.ref(model(batch(step, 4, torch.float32)[0])))
        train(model, optimizer, range(step, step + 1))
        if step in (60, 199):
            counts.append(objects())
            hooks.append(hooks_of(model))
    assert [ref for ref in outputs if ref() is not None] == []
    assert hooks[0] == hooks[1]
    assert counts[1] - counts[0] < 300


def test_forward_passes_without_backward_keep_nothing() -> None:
    model = mlp(torch.float32)
    optimizer = build(model, "ekfac", "model")
    train(model, optimizer, 2)
    gc.disable()
    try:
        outputs = [weakref.ref(model(batch(step, 4, torch.float32)[0])) for step in range(50)]
        assert [ref for ref in outputs if ref() is not None] == []
    finally:
        gc.enable()
    before = objects()
    for step in range(200):
        model(batch(step, 4, torch.float32)[0])
    assert objects() - before < 50


@every_method
def test_the_trajectory_is_released_in_the_step(curvature: str, search: str) -> None:
    model = mlp()
    optimizer = build(model, curvature, search)
    kept: list[weakref.ref[Tensor]] = []
    x, y = batch(0)
    hidden = model[0](x)
    kept.append(weakref.ref(hidden))
    F.cross_entropy(model[1:](hidden), y).backward()
    one_step(model, optimizer, x, y)
    del hidden
    gc.collect()
    assert all(ref() is None for ref in kept)


# passes that are not the loss's own


@every_method
def test_create_graph_is_ignored(curvature: str, search: str) -> None:
    """A divergence or penalty taken with create_graph=True, with no weight in the loss, changes nothing."""
    (model, optimizer), (other, plain) = pair(curvature, search)
    for step in range(4):
        x, y = batch(step)
        optimizer.zero_grad()
        z = x.clone().requires_grad_()
        output = model(z)
        (gradient,) = torch.autograd.grad(output.pow(3).sum(), z, create_graph=True)
        assert gradient.requires_grad
        F.cross_entropy(output, y).backward()
        optimizer.step()
        one_step(other, plain, x, y)
    assert same(snapshot(model, optimizer), snapshot(other, plain))


@every_method
def test_only_the_pass_that_runs_backward_counts(curvature: str, search: str) -> None:
    (model, optimizer), (other, plain) = pair(curvature, search)
    for step in range(4):
        x, y = batch(step)
        optimizer.zero_grad()
        model(batch(77, 5)[0])
        loss = F.cross_entropy(model(x), y)
        model(batch(78, 3)[0])
        loss.backward()
        optimizer.step()
        one_step(other, plain, x, y)
    assert same(snapshot(model, optimizer), snapshot(other, plain))


@every_method
def test_a_step_without_any_gradient_does_nothing(curvature: str, search: str) -> None:
    model = mlp()
    optimizer = build(model, curvature, search)
    before = snapshot(model, optimizer)
    optimizer.step()
    model(batch(0)[0])
    optimizer.step()
    assert same(before, snapshot(model, optimizer))


@every_method
@pytest.mark.parametrize("warm", [0, 3])
def test_zero_gradients_at_rate_zero_move_nothing(curvature: str, search: str, warm: int) -> None:
    """What torch.distributed.checkpoint does to fill an optimizer's state before it loads one."""
    model = mlp()
    optimizer = build(model, curvature, search)
    train(model, optimizer, warm)
    before = weights(model)
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert same(before, weights(model))
    for group, lr in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = lr
    train(model, optimizer, 3)
    assert finite(model)


def test_optimizer_backward_equals_plain_backward_for_rank_one() -> None:
    (model, optimizer), (other, plain) = pair("sgd", "fixed", terminal="true-vs-rest")
    for step in range(4):
        x, y = batch(step)
        optimizer.zero_grad()
        output = model(x)
        optimizer.backward(F.cross_entropy(output, y), output)
        optimizer.step()
        one_step(other, plain, x, y)
    assert distance(model, other) < 1e-10


@every_curvature
@pytest.mark.parametrize("terminal", ["gauss-newton", "true-vs-rest"])
def test_optimizer_backward_finds_the_pass_its_output_came_from(curvature: str, terminal: str) -> None:
    (model, optimizer), (other, plain) = pair(curvature, terminal=terminal)
    for step in range(4):
        x, y = batch(step)
        for net, opt, between in ((model, optimizer, True), (other, plain, False)):
            opt.zero_grad()
            output = net(x)
            if between:
                net(batch(50, 5)[0])
            opt.backward(F.cross_entropy(output, y), output)
            opt.step()
    assert same(snapshot(model, optimizer), snapshot(other, plain))


def test_it_is_a_torch_optimizer() -> None:
    model = mlp()
    optimizer = OCNOpt(model, params=model.named_parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert "OCNOpt" in repr(optimizer)
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    train(model, optimizer, 1)
    assert calls == ["pre", "post"]
    assert optimizer.param_groups[0]["param_names"][0] == "0.weight"


def test_the_trajectory_is_released_with_the_step() -> None:
    """By reference counts alone: in a cycle, the tensors of many steps would wait for the garbage collector."""
    model = mlp()
    optimizer = OCNOpt(model)
    x, y = batch(0)
    gc.collect()
    gc.disable()
    try:
        F.cross_entropy(model(x), y).backward()
        seen = [weakref.ref(call.z) for calls in optimizer.capture.calls.values() for call in calls]
        assert seen and all(ref() is not None for ref in seen)
        optimizer.step()
        assert all(ref() is None for ref in seen)
    finally:
        gc.enable()
