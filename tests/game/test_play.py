"""The game inside the optimizer: who shares a stage, what is refused, what is learned and what survives."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from ocnopt import OCNOpt
from ocnopt.core.value import Coupled
from ocnopt.curvature import EKFAC, KFAC
from ocnopt.game.alignment import Alignments, Improvement
from ocnopt.game.blocks import Block
from ocnopt.game.kinds import Cooperative, FeedbackNash, ProductCooperative

KINDS = {"feedback-nash": FeedbackNash(), "cooperative": Cooperative(), "product": ProductCooperative()}
BLOCKS = (
    Block("one", "residual", (("one.conv1", "one.conv2"), ("one.shortcut",))),
    Block("two", "residual", (("two.conv1", "two.conv2"), ("two.shortcut",))),
)


class Residual(nn.Module):
    """Two convolutions with norms beside a strided shortcut."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, out, 3, 2, padding=1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = nn.Conv2d(out, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        self.shortcut, self.act = nn.Conv2d(width, out, 1, 2), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm2(self.conv2(self.act(self.norm1(self.conv1(x))))) + self.shortcut(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = Residual(2, 4), Residual(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(self.one(x)).mean((2, 3)))


def data(steps: int = 1) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(1)
    patterns = torch.randn(3, 2, 8, 8, generator=draws)
    y = torch.randint(3, (steps, 16), generator=draws)
    x = torch.randn(steps, 16, 2, 8, 8, generator=draws) + patterns[y]
    return list(zip(x, y, strict=True))


def fresh(**options: Any) -> tuple[Net, OCNOpt]:
    torch.manual_seed(0)
    net = Net()
    return net, OCNOpt(net, **{"blocks": BLOCKS, "curvature": EKFAC(statistics_every=2), **options})


def step(net: nn.Module, optimizer: OCNOpt, x: Tensor, y: Tensor) -> float:
    optimizer.zero_grad()
    loss = cross_entropy(net(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def train(net: nn.Module, optimizer: OCNOpt, steps: int) -> list[float]:
    return [step(net, optimizer, x, y) for x, y in data(steps)]


@pytest.mark.parametrize("rollout", ["linear", "nonlinear"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("curvature", ["kfac", "ekfac"])
def test_every_kind_of_game_trains(curvature: str, kind: str, rollout: str) -> None:
    net, optimizer = fresh(curvature=curvature, game=KINDS[kind], rollout=rollout)
    losses = train(net, optimizer, 30)
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    assert not any("nonlinear" in name for name in optimizer.diagnostics())


@pytest.mark.parametrize("curvature", ["sgd", "rmsprop", "adam"])
def test_feedback_nash_needs_no_kronecker_factors(curvature: str) -> None:
    net, optimizer = fresh(curvature=curvature, game="feedback-nash")
    losses = train(net, optimizer, 40)
    assert sum(losses[-5:]) < sum(losses[:5])


@pytest.mark.parametrize("kind", KINDS)
def test_without_blocks_there_is_no_game(kind: str) -> None:
    nets = []
    for options in ({"game": "off"}, {"game": KINDS[kind], "blocks": ()}):
        net, optimizer = fresh(**options)
        train(net, optimizer, 6)
        nets.append(net)
    for p, q in zip(*(net.parameters() for net in nets), strict=True):
        assert torch.equal(p, q)


def test_the_kinds_of_game_take_different_steps() -> None:
    ends = []
    for kind in (*KINDS, "off"):
        net, optimizer = fresh(game=KINDS.get(kind, "off"), alignment="first")
        train(net, optimizer, 8)
        ends.append(net.one.shortcut.weight.detach())
    for j, end in enumerate(ends):
        assert all(not torch.equal(end, other) for other in ends[:j])


@pytest.mark.parametrize(("alignment", "partner"), [("first", "conv1"), ("last", "conv2"), (0, "conv1"), (9, "conv2")])
def test_coverage_names_who_shares_a_stage(alignment: str | int, partner: str) -> None:
    net, optimizer = fresh(game="cooperative", alignment=alignment)
    train(net, optimizer, 1)
    rows = {row.parameter: row.shares for row in optimizer.coverage()}
    assert rows["one.shortcut.weight"] == rows[f"one.{partner}.weight"] == f"one.{partner} + one.shortcut"
    assert rows["head.weight"] == rows["one.norm1.weight"] == ""


def test_a_frozen_member_leaves_the_others_alone() -> None:
    net, optimizer = fresh(game="cooperative", alignment="first")
    for p in net.one.shortcut.parameters():
        p.requires_grad_(False)
    train(net, optimizer, 3)
    rows = {row.parameter: row.shares for row in optimizer.coverage()}
    assert rows["one.conv1.weight"] == ""
    assert rows["two.conv1.weight"] != ""


def test_a_bias_that_is_frozen_and_thawed_changes_the_cross_blocks() -> None:
    net, optimizer = fresh(game="cooperative", alignment="first")
    for frozen in (False, True, False):
        net.one.shortcut.bias.requires_grad_(not frozen)
        losses = train(net, optimizer, 4)
        assert all(map(torch.isfinite, map(torch.tensor, losses)))
        width = optimizer.state[net.one.conv1.weight]["cross_A one.shortcut"].shape
        assert width == (2 * 9, 2 + (not frozen))


REFUSED = {
    "game='wild'": ({"game": "wild"}, "choose one of 'off', 'feedback-nash', 'cooperative'"),
    "alignment='middle'": ({"game": "cooperative", "alignment": "middle"}, "'bandit', 'first', 'last'"),
    "alignment=-1": ({"game": "cooperative", "alignment": -1}, "from 0 on"),
    "alignment=True": ({"game": "cooperative", "alignment": True}, "from 0 on"),
    "coupled": ({"game": "feedback-nash", "value": "coupled"}, "already solves for all layers together"),
    "coupled, as an object": ({"game": "cooperative", "value": Coupled()}, "already solves for all layers together"),
    "a diagonal curvature": ({"game": "cooperative", "curvature": "adam"}, "cross blocks"),
    "own gains": ({"game": "cooperative", "value": "own-gains"}, "cross blocks"),
    "a path that is not there": (
        {"game": "cooperative", "blocks": [Block("b", "residual", (("one.conv9",), ("one.shortcut",)))]},
        "no module of the model",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_played_is_refused_in_a_sentence(case: str) -> None:
    options, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        fresh(**options)


@pytest.mark.parametrize("option", [{"tolerance": 0.0}, {"tolerance": float("nan")}, {"iterations": 0}])
def test_options_of_the_solver_are_checked(option: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        Cooperative(**option)


# the bandit


def saved(optimizer: OCNOpt) -> dict:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_a_resumed_game_goes_on_bit_for_bit() -> None:
    net, optimizer = fresh(game="cooperative")
    batches = data(70)
    for x, y in batches[:35]:
        step(net, optimizer, x, y)
    state, weights = saved(optimizer), copy.deepcopy(net.state_dict())
    for x, y in batches[35:]:
        step(net, optimizer, x, y)

    twin, other = fresh(game="cooperative")
    twin.load_state_dict(weights)
    other.load_state_dict(state)
    for x, y in batches[35:]:
        step(twin, other, x, y)
    assert other.decisions() == optimizer.decisions()
    assert all(len(plays) == 6 for plays in optimizer.decisions().values())
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_remember_the_game(copied: Any) -> None:
    net, optimizer = fresh(game="cooperative")
    train(net, optimizer, 25)
    twin, other = copied((net, optimizer))
    assert other.decisions() == optimizer.decisions() != {}
    assert other.game.alignments.arms == optimizer.game.alignments.arms
    for (a, b), (x, y) in zip(((net, optimizer), (twin, other)), data(2), strict=True):
        step(a, b, x, y)


def test_a_state_of_other_blocks_is_refused() -> None:
    state = fresh(game="cooperative")[1].state_dict()
    with pytest.raises(ValueError, match="one, two"):
        fresh(game="cooperative", blocks=BLOCKS[:1])[1].load_state_dict(state)


def test_a_state_without_a_game_starts_one() -> None:
    net, optimizer = fresh(game="off")
    train(net, optimizer, 2)
    _, other = fresh(game="cooperative")
    other.load_state_dict(optimizer.state_dict())
    assert all(not plays for plays in other.decisions().values())


def test_blocks_draw_apart_and_by_the_seed() -> None:
    arms = []
    for seed in (0, 0, 1):
        net, optimizer = fresh(game="feedback-nash", seed=seed)
        train(net, optimizer, 150)
        arms.append([[arm for _, arm, _ in plays] for plays in optimizer.decisions().values()])
    assert arms[0] == arms[1] != arms[2]
    assert arms[0][0] != arms[0][1]


@pytest.mark.parametrize("way", ["plain", "closure", "backward"])
def test_the_bandit_sees_the_loss(way: str) -> None:
    net, optimizer = fresh(game="feedback-nash")
    seen = []
    optimizer.game.alignments.observe = seen.append  # type: ignore[method-assign]
    ((x, y),) = data(1)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(net(x), y)
        loss.backward()
        return loss

    with torch.no_grad():
        expected = float(cross_entropy(copy.deepcopy(net)(x), y))
    if way == "closure":
        optimizer.step(closure)
    elif way == "plain":
        closure()
        optimizer.step()
    else:
        output = net(x)
        optimizer.backward(cross_entropy(output, y), output)
        optimizer.step()
    assert float(seen[0]) == pytest.approx(expected, rel=1e-5)


def test_without_a_loss_nothing_is_learned() -> None:
    net, optimizer = fresh(game="feedback-nash")
    for x, _ in data(30):
        optimizer.zero_grad()
        mse_loss(net(x), torch.zeros(16, 3)).backward()
        optimizer.step()
    assert all(not plays for plays in optimizer.decisions().values())


def test_improvements_are_rewarded_against_the_usual_one() -> None:
    improvement = Improvement()
    assert improvement.reward(3.0) is None
    rewards = [improvement.reward(loss) for loss in (2.9, 2.8, 2.7, 2.2, 2.15, 2.5)]
    assert all(0 <= r <= 1 for r in rewards)
    assert rewards[3] > 0.6 and rewards[5] < 0.2
    assert Improvement(**improvement.state_dict()) == improvement


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), None])
def test_a_loss_that_is_not_finite_enters_no_average(loss: float | None) -> None:
    alignments = Alignments(BLOCKS, "bandit")
    for value in [1.0] * 10 + [0.9] * 5 + [loss] * 5 + [0.8] * 10:
        alignments.observe(value)
    assert alignments.improvement.last == pytest.approx(0.8)
    assert alignments.improvement.mean == pytest.approx(0.1)


# numbers


def test_cross_blocks_stay_float32_under_bfloat16() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8)).append(Parallel()).append(nn.Linear(8, 3)).bfloat16()
    block = Block("1", "parallel", (("1.left",), ("1.right",)))
    optimizer = OCNOpt(net, game="cooperative", blocks=[block])
    for _ in range(4):
        optimizer.zero_grad()
        cross_entropy(net(torch.randn(16, 6).bfloat16()).float(), torch.randint(3, (16,))).backward()
        optimizer.step()
    state = saved(optimizer)["state"]
    crosses = [x for entry in state.values() for key, x in entry.items() if key.startswith("cross")]
    assert len(crosses) == 2 and all(x.dtype == torch.float32 for x in crosses)
    optimizer.load_state_dict(saved(optimizer))
    kept = optimizer.state[net[1].left.weight]
    assert kept["cross_A 1.right"].dtype == torch.float32


class Parallel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return (self.left(x) + self.right(x)).relu()


def test_evidence_that_overflows_enters_no_cross_block() -> None:
    net, optimizer = fresh(game="cooperative", curvature=KFAC(fisher="given"))
    train(net, optimizer, 3)
    key = "cross_B one.shortcut"
    before = optimizer.state[net.one.conv1.weight][key].clone()
    optimizer.zero_grad()
    ((x, y),) = data(1)
    (1e25 * cross_entropy(net(x), y)).backward()
    optimizer.step()
    after = optimizer.state[net.one.conv1.weight][key]
    assert torch.equal(before, after)
