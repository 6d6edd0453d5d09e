"""The blocks of known networks by name, read in two ways that must agree, without a trace left on the model."""

from __future__ import annotations

import copy
import pickle
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import stage_nets as nets
import torch
from torch import Tensor, nn

from ocnopt.game import Block, Stages, check_blocks, find_stages, tracing
from ocnopt.game.blocks import assembled
from ocnopt.game.dataflow import Draft, Flow

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TOKENS = torch.tensor([[1, 2, 3, 4, 5], [5, 4, 3, 2, 1]])


def shortcut_block(name: str) -> Block:
    return Block(name, "residual", ((f"{name}.conv1", f"{name}.conv2"), (f"{name}.downsample.0",)))


def inception(name: str) -> Block:
    deep = tuple((f"{name}.branch{j}.0.0", f"{name}.branch{j}.1.0") for j in (2, 3))
    return Block(name, "inception", (*deep, (f"{name}.branch1.0",), (f"{name}.branch4.1.0",)))


def projections(name: str) -> Block:
    return Block(name, "parallel", ((f"{name}.q",), (f"{name}.k",), (f"{name}.v",)))


def attention_and_mlp(name: str) -> Block:
    return Block(name, "parallel", ((f"{name}.mlp.0", f"{name}.mlp.2"), (f"{name}.attn.out",)))


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    inputs: tuple[Tensor, ...]
    blocks: tuple[Block, ...]
    plain: tuple[str, ...] = ()


RESNET_BLOCKS = (shortcut_block("layer2.0"), shortcut_block("layer3.0"), shortcut_block("layer4.0"))
RESNET_PLAIN = ("layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1")
CASES = {
    "resnet": Case(nets.ResNet18, (IMAGES,), RESNET_BLOCKS, RESNET_PLAIN),
    "googlenet": Case(nets.GoogLeNet, (IMAGES,), (inception("inception3a"), inception("inception3b"))),
    "preact": Case(
        nets.PreactResNet,
        (IMAGES,),
        (Block("blocks.1", "residual", (("blocks.1.conv1", "blocks.1.conv2"), ("blocks.1.shortcut.0",))),),
        ("blocks.0", "blocks.2"),
    ),
    "transformer": Case(
        nets.Transformer,
        (TOKENS,),
        (
            projections("blocks.0.attn"),
            attention_and_mlp("blocks.0"),
            projections("blocks.1.attn"),
            attention_and_mlp("blocks.1"),
            projections("blocks.2.attn"),
            Block("blocks.2", "parallel", (("blocks.2.gate",), ("blocks.2.up",))),
        ),
        ("blocks.2.attn", "blocks.2"),
    ),
    "conditioned": Case(
        nets.Conditioned,
        (IMAGES, torch.ones(2, 1)),
        (Block("residual", "residual", (("conv1", "conv2"), ("short",))),),
    ),
    "nested": Case(
        nets.InceptionResidual,
        (IMAGES,),
        (
            Block("inception", "inception", (("b.0", "b.1"), ("a",))),
            Block("residual", "residual", (("merge", "after"), ("short",))),
        ),
    ),
}
each_net = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@each_net
def test_blocks_are_found_by_name(case: Case) -> None:
    assert find_stages(case.make(), case.inputs) == Stages(case.blocks, case.plain, "")


@each_net
@pytest.mark.parametrize("way", [tracing.symbolic, tracing.recorded])
def test_both_ways_of_reading_agree(case: Case, way: Callable[[nn.Module, tuple[Any, ...]], Flow]) -> None:
    model = case.make().eval()
    assert assembled(way(model, case.inputs), model) == (case.blocks, case.plain)


@each_net
def test_the_code_alone_says_the_same(case: Case) -> None:
    assert find_stages(case.make()) == Stages(case.blocks, case.plain, "")


def test_where_tracing_fails_the_graph_is_read() -> None:
    model = nets.DecidingResNet18()
    assert find_stages(model).note.endswith("without running it; give find_stages an example_input.")
    with pytest.raises(torch.fx.proxy.TraceError):
        tracing.symbolic(model, (IMAGES,))
    assert find_stages(model, IMAGES) == Stages(RESNET_BLOCKS, RESNET_PLAIN, "")


@each_net
def test_found_blocks_pass_the_check(case: Case) -> None:
    check_blocks(case.blocks, case.make())


def test_a_compiled_network_is_read_as_it_was_written() -> None:
    blocks = find_stages(torch.compile(nets.ResNet18()), IMAGES).blocks
    assert blocks == tuple(shortcut_block(f"_orig_mod.layer{j}.0") for j in (2, 3, 4))


# what is a layer, and what is left out


class TwoWays(nn.Module):
    """a after the first way, b after the second, joined as the case says."""

    def __init__(self, a: nn.Module, b: nn.Module, join: Callable[[Tensor, Tensor], Tensor] = torch.add) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.join = nn.Linear(3, 3), a, b, join

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.join(self.a(x), self.b(x))


def linear() -> nn.Linear:
    return nn.Linear(3, 3)


ROWS = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("join", "kind"),
    [
        (torch.sub, "residual"),
        (lambda a, b: torch.stack([a, b]).amax(0), "inception"),
        (torch.mul, "parallel"),
        (torch.maximum, "parallel"),
    ],
    ids=["minus", "stack", "times", "maximum"],
)
def test_the_join_says_the_kind(join: Callable[[Tensor, Tensor], Tensor], kind: str) -> None:
    model = TwoWays(linear(), linear(), join)
    for way in (tracing.symbolic, tracing.recorded):
        blocks, _ = assembled(way(model, (ROWS,)), model)
        assert blocks == (Block(kind, kind, (("a",), ("b",))),)


def test_only_trainable_layers_of_their_own_take_part() -> None:
    frozen, tied = TwoWays(linear(), linear()), TwoWays(linear(), linear())
    frozen.b.requires_grad_(False)
    tied.b.weight = tied.stem.weight
    normed = TwoWays(nn.Sequential(linear(), nn.LayerNorm(3)), nn.LayerNorm(3))
    repeated = TwoWays(nn.Sequential(linear(), nn.ReLU()), nn.Sequential(linear(), nn.ReLU()))
    repeated.b.append(repeated.b[0])
    assert find_stages(frozen, ROWS) == Stages(plain=("a",))
    assert find_stages(tied, ROWS) == find_stages(repeated, ROWS) == Stages()
    assert find_stages(normed, ROWS) == Stages(plain=("a.0",))


class Unused(nn.Linear):
    """A layer that is switched off."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("way", [tracing.symbolic, tracing.recorded])
def test_frozen_and_unused_layers_do_not_cut_the_network(way: Callable[[nn.Module, tuple[Any, ...]], Flow]) -> None:
    model = TwoWays(nn.Sequential(linear(), Unused(3, 3), linear()), linear())
    model.stem = nn.Embedding(7, 3)  # type: ignore[assignment]
    model.stem.requires_grad_(False)
    blocks, _ = assembled(way(model, (torch.tensor([1, 2]),)), model)
    assert blocks == (Block("residual", "residual", (("a.0", "a.2"), ("b",))),)


def test_layers_that_both_ways_run_through_stay_alone() -> None:
    class Shared(TwoWays):
        def forward(self, x: Tensor) -> Tensor:
            y = self.stem(x)
            return self.a(y) + self.b(y) + x

    assert find_stages(Shared(linear(), linear()), ROWS).blocks == (Block("parallel", "parallel", (("a",), ("b",))),)


def test_equal_names_are_numbered() -> None:
    model = nn.Sequential(TwoWays(linear(), linear()), TwoWays(linear(), linear()))
    assert [block.name for block in find_stages(model, ROWS)] == ["0", "1"]

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (linear() for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            x = (self.a(x) + self.b(x)).relu()
            return self.c(x) + self.d(x)

    assert [block.name for block in find_stages(Flat(), ROWS)] == ["residual", "residual#2"]


def test_attention_of_torch_is_one_step() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    found = find_stages(model, torch.ones(2, 5, 8))
    assert found == Stages(plain=("layers.0.self_attn", "layers.0", "layers.1.self_attn", "layers.1"))


def test_a_network_without_forks_has_no_blocks() -> None:
    found = find_stages(nn.Sequential(linear(), nn.ReLU(), linear()), ROWS)
    assert found == Stages() and not found and str(found) == "no blocks"


# networks and arguments that cannot be read


@pytest.mark.parametrize(
    ("model", "example", "reason"),
    [
        (nets.Detached(), torch.ones(2, 4), "no gradient leads from its output back to a layer."),
        (nets.ThroughNumpy(), torch.ones(2, 4), "failed with RuntimeError (Can't call numpy() on Tensor"),
        (nn.Sequential(nn.ReLU()), torch.ones(2, 4), "no gradient leads"),
        (linear(), torch.ones(2, 4), "failed with RuntimeError (mat1 and mat2 shapes cannot be multiplied"),
        (linear(), (ROWS, ROWS), "failed with TypeError"),
        (linear(), (), "failed with TypeError"),
    ],
    ids=["detached", "numpy", "no parameters", "wrong shape", "too many", "none"],
)
def test_an_unreadable_network_is_a_note(model: nn.Module, example: Any, reason: str) -> None:
    found = find_stages(model, example)
    assert found == Stages(note=found.note) and str(found) == found.note
    assert found.note.startswith("The network could not be read, so every layer stays a stage of its own: ")
    assert reason in found.note and found.note.endswith(".") and "\n" not in found.note


def test_a_network_that_cannot_be_copied_is_a_note() -> None:
    model = TwoWays(linear(), linear())
    model.lock = (x for x in ())  # type: ignore[assignment]
    assert "failed with TypeError (cannot pickle 'generator' object)" in find_stages(model, ROWS).note


def test_arguments_of_the_wrong_kind_are_refused() -> None:
    with pytest.raises(TypeError, match=r"takes the model itself \(an nn.Module\), not list"):
        find_stages([linear()], ROWS)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="example_input is a list; give a tensor, or a tuple"):
        find_stages(linear(), [ROWS])  # type: ignore[arg-type]


# the model is as it was


def picture(model: nn.Module) -> dict[str, Any]:
    """All that a forward or backward pass can change, tensors by value and identity."""
    state: dict[str, Any] = {"random": random.getstate(), "torch": torch.get_rng_state().tolist()}
    for path, module in model.named_modules():
        for held in (vars(module), module._parameters, module._buffers):
            for name, value in held.items():
                state[f"{path}.{name}"] = (id(value), value.tolist() if isinstance(value, Tensor) else str(value))
    for path, p in model.named_parameters():
        state[f"grad of {path}"] = (id(p.grad), p.requires_grad, p._version)
    return state


@pytest.mark.parametrize("decides", [False, True], ids=["traced", "recorded"])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_model_and_the_world_are_as_before(decides: bool, mode: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model, heard = nets.Stateful(decides), []
    model.a.register_forward_hook(lambda *_: heard.append("a"))
    tokens = torch.tensor([1, 2, 3, 4])
    model(tokens).sum().backward()  # keeps a result with a past, which deepcopy refuses
    model.drop.eval()
    heard.clear()
    before = picture(model)
    with mode():
        found = find_stages(model, tokens)
    assert picture(model) == before and not heard and torch.is_grad_enabled()
    assert found.blocks == (Block("residual", "residual", (("a",), ("b",))),)


def test_the_example_is_as_before() -> None:
    example = torch.ones(2, 3)
    model = nn.Sequential(nn.ReLU(inplace=True), TwoWays(linear(), linear()))
    assert len(find_stages(model, example)) == 1
    assert len(tracing.recorded(model, (example,)).order) == 3
    assert example.grad_fn is None and not example.requires_grad and example._version == 0
    with torch.inference_mode():
        inferred = torch.ones(2, 3)
    assert len(find_stages(model, inferred)) == 1

    class Shifting(TwoWays):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.add_(1).float())

    numbers = torch.zeros(2, 3, dtype=torch.long)
    assert len(find_stages(Shifting(linear(), linear()), numbers)) == 1 and not numbers.any()


# blocks


def test_alignments_of_a_shortcut() -> None:
    block = shortcut_block("layer2.0")
    first, last = block.aligned(0), block.aligned(1)
    assert block.arms == 2
    assert first == (("layer2.0.conv1", "layer2.0.downsample.0"),)
    assert last == (("layer2.0.conv2", "layer2.0.downsample.0"),)
    for wrong in (-1, 2):
        with pytest.raises(ValueError, match=f"no alignment {wrong}; give a number from 0 to 1"):
            block.aligned(wrong)


def test_alignments_of_branches_of_many_lengths() -> None:
    """Every branch moves as far as it can and stops at the end."""
    block = Block("x", "inception", (("c",), ("a1", "a2", "a3"), ("b1", "b2")))
    assert block.branches == (("a1", "a2", "a3"), ("b1", "b2"), ("c",)) and block.arms == 3
    assert block.aligned(0) == (("a1", "b1", "c"), ("a2", "b2"))
    assert block.aligned(1) == (("a2", "b1", "c"), ("a3", "b2"))
    assert block.aligned(2) == (("a2", "b1"), ("a3", "b2", "c"))


@pytest.mark.parametrize(
    ("kind", "branches", "sentence"),
    [
        ("serial", (("a",), ("b",)), "has kind='serial'; choose one of residual, inception, parallel."),
        ("residual", (), "needs two branches, not 0: one alone meets nobody."),
        ("residual", (("a", "b"),), "needs two branches, not 1: one alone meets nobody."),
        ("residual", (("a", "b"), ()), "has a branch without layers; leave it out, nothing can be aligned."),
        ("residual", (("a", "b"), ("a",)), "names 'a' twice; a layer has one place in one branch."),
        ("residual", (("a", "a"), ("b",)), "names 'a' twice"),
        ("residual", ("conv1", "conv2"), "holds a string as a branch; give every branch as a tuple of paths."),
        ("residual", "conv1", "holds a string as a branch"),
    ],
)
def test_wrong_blocks_are_refused(kind: str, branches: Any, sentence: str) -> None:
    with pytest.raises(ValueError) as caught:
        Block("mine", kind, branches)
    assert str(caught.value).startswith("Block 'mine' ") and sentence in str(caught.value)


@pytest.mark.parametrize(
    ("name", "branches", "sentence"),
    [
        (
            "b",
            (("layer1.0.conv3",), ("conv1",)),
            "'layer1.0.conv3' in block 'b' is no module of the model; compare layer",
        ),
        (
            "b",
            (("anything else",), ("conv1",)),
            "is no module of the model; compare the paths of model.named_modules().",
        ),
        ("b", (("conv1",), ("",)), "'' in block 'b' is no module of the model"),
        ("b", (("conv1",), ("alias",)), "'alias' sits in block 'mine' and again in 'b'; leave it in one place."),
        ("b", (("conv1",), ("bn1", "layer1"), ("bn1.x",)), "'bn1.x' in block 'b' is no module of the model"),
        ("mine", (("conv1",), ("bn1",)), "2 blocks are named 'mine'; give each a name of its own."),
    ],
)
def test_blocks_are_checked_against_the_model(name: str, branches: Any, sentence: str) -> None:
    model = nets.ResNet18()
    model.alias = model.fc
    mine = Block("mine", "residual", [["relu"], ["fc"]])  # type: ignore[arg-type]
    check_blocks([mine], model)
    with pytest.raises(ValueError) as caught:
        check_blocks((block for block in (mine, Block(name, "residual", branches))), model)
    assert sentence in str(caught.value)


def test_blocks_can_be_copied_stored_compared_and_read() -> None:
    block = shortcut_block("layer2.0")
    found = Stages((block, inception("x")), ("layer1.0", "layer1.1"))
    for again in (copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert again == found and hash(again) == hash(found) and again[0] == block
    assert len(found) == 2 and found[1:] == (inception("x"),) and block in found and list(reversed(found))[1] is block
    assert str(found).splitlines()[:5] == [
        "layer2.0 (residual, 2 alignments)",
        "    conv1 → conv2",
        "    downsample.0",
        "    alignment 0: {conv1, downsample.0}",
        "    alignment 1: {conv2, downsample.0}",
    ]
    assert str(found).endswith("\nnothing to align: layer1.0, layer1.1")


# the dataflow itself, against all ways through random graphs


def ways(flow: Flow, start: int, end: int) -> list[tuple[int, ...]]:
    """Every path from one value to another, ``end`` included and ``start`` not."""
    if start == end:
        return [()]
    return [(*way, end) for i in flow.nodes[end].inputs for way in ways(flow, start, i)]


@pytest.mark.parametrize("seed", range(20))
def test_forks_and_branches_are_those_of_the_paths(seed: int) -> None:
    chance, draft = random.Random(seed), Draft()
    draft.source(0)
    for n in range(1, 10):
        draft.add(n, chance.sample(range(n), k=min(n, chance.choice([1, 1, 2, 3]))), "cat", call=str(n))
    flow = draft.finished([9], map(str, range(10)))
    assert flow.nodes[-1].call == "9" and len(flow.uses) == len(flow.nodes)
    joins = [n for n, node in enumerate(flow.nodes) if node.joins]
    for n, region in zip(joins, flow.regions(), strict=True):  # calls are never absorbed
        inputs = flow.nodes[n].inputs
        fork = max(f for f in range(n) if all(ways(flow, f, i) for i in inputs))
        branches = [{flow.nodes[m].call for way in ways(flow, fork, i) for m in way} for i in inputs]
        assert region.calls == set().union(*branches)
        for own, branch, j in zip(region.branches, branches, range(len(inputs)), strict=True):
            assert own == branch.difference(*(other for k, other in enumerate(branches) if k != j))
