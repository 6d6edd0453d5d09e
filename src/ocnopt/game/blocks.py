"""Blocks of a network: where its ways part and meet again, which layers could share a stage, and how.

    block = Block("layer2.0", "residual", (("layer2.0.conv1", "layer2.0.conv2"), ("layer2.0.downsample.0",)))
    block.aligned(0)    # (("layer2.0.conv1", "layer2.0.downsample.0"),)
    block.aligned(1)    # (("layer2.0.conv2", "layer2.0.downsample.0"),)

``find_stages`` reads them off a model; users may as well write their own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, overload

from torch import Tensor, nn

from ..players import ModulePlayer, find
from .dataflow import Flow, Region
from .tracing import read

KINDS = ("residual", "inception", "parallel")


@dataclass(frozen=True)
class Block:
    """Branches with a common origin that meet again.

    name: of its own among all blocks.  kind: "residual", "inception" or "parallel".
    branches: per branch the paths of its layers, from where the ways part to where they meet, longest branch first.
    """

    name: str
    kind: str
    branches: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"Block {self.name!r} has kind={self.kind!r}; choose one of {', '.join(KINDS)}.")
        if any(isinstance(branch, str) for branch in (self.branches, *self.branches)):
            raise ValueError(f"Block {self.name!r} holds a string as a branch; give every branch as a tuple of paths.")
        branches = tuple(sorted(map(tuple, self.branches), key=len, reverse=True))
        if len(branches) < 2:
            raise ValueError(f"Block {self.name!r} needs two branches, not {len(branches)}: one alone meets nobody.")
        if not all(branches):
            raise ValueError(f"Block {self.name!r} has a branch without layers; leave it out, nothing can be aligned.")
        twice = [path for path, count in Counter(sum(branches, ())).items() if count > 1]
        if twice:
            raise ValueError(f"Block {self.name!r} names {twice[0]!r} twice; a layer has one place in one branch.")
        object.__setattr__(self, "branches", branches)

    @property
    def arms(self) -> int:
        """The number of alignments: places of the shortest branch along the longest."""
        return len(self.branches[0]) - len(self.branches[-1]) + 1

    def aligned(self, i: int) -> tuple[tuple[str, ...], ...]:
        """The coalitions, of two members at least, when every branch is shifted by i as far as it can be.

        Branch k starts at position min(i, longest − its length) along the longest; equal positions play together.
        """
        if not 0 <= i < self.arms:
            raise ValueError(f"Block {self.name!r} has no alignment {i}; give a number from 0 to {self.arms - 1}.")
        longest = len(self.branches[0])
        stages: list[list[str]] = [[] for _ in range(longest)]
        for branch in self.branches:
            for j, path in enumerate(branch, start=min(i, longest - len(branch))):
                stages[j].append(path)
        return tuple(tuple(stage) for stage in stages if len(stage) > 1)

    def __str__(self) -> str:
        lines = [f"{self.name} ({self.kind}, {self.arms} alignment{'s' * (self.arms > 1)})"]
        lines += ["    " + " → ".join(map(self.short, branch)) for branch in self.branches]
        for i in range(self.arms):
            coalitions = ("{" + ", ".join(map(self.short, stage)) + "}" for stage in self.aligned(i))
            lines.append(f"    alignment {i}: " + " ".join(coalitions))
        return "\n".join(lines)

    def short(self, path: str) -> str:
        """The path as seen from the block."""
        return path.removeprefix(f"{self.name}.")


@dataclass(frozen=True)
class Stages(Sequence[Block]):
    """What ``find_stages`` found: a sequence of blocks.

    plain: names of residual blocks whose shortcut has no layer, so that there is nothing to align.
    note: '', or one sentence why the network could not be read.
    """

    blocks: tuple[Block, ...] = ()
    plain: tuple[str, ...] = ()
    note: str = ""

    @overload
    def __getitem__(self, index: int) -> Block: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Block, ...]: ...
    def __getitem__(self, index: int | slice) -> Block | tuple[Block, ...]:
        return self.blocks[index]

    def __len__(self) -> int:
        return len(self.blocks)

    def __str__(self) -> str:
        plain = [f"nothing to align: {', '.join(self.plain)}"] if self.plain else []
        return "\n".join([*map(str, self.blocks), *plain, *([self.note] if self.note else [])]) or "no blocks"


def find_stages(model: nn.Module, example_input: Tensor | tuple[Any, ...] | None = None) -> Stages:
    """The residual, inception and parallel blocks of a network, from one forward pass over ``example_input``.

    example_input: a tensor, or a tuple of the positional arguments of ``model``; a few samples are enough. Without it
        only the model's code is read, which is less certain and fails where the code depends on values.

    * A join by + or − of two ways is "residual"; a concatenation (cat, stack) is "inception"; a sum of three or more
      ways (x + attention + MLP), a product of ways (attention over q, k, v; gates) and any other meeting is "parallel".
      Sums inside sums and products inside products are one meeting.
    * Branches consist of matrix layers (Linear, convolutions) with trainable parameters; norms are no positions.
      Layers that several branches run through, that are called more than once, or that share a parameter with
      another module are left out: they stay stages of their own.
    * Inner regions come first. A layer that sits in one of them is missing from the branches of those around it,
      and what is left of these is a block where two branches still have layers.
    * A sum of layers with an identity (or with norms and pooling alone) is not a block but listed as ``plain``.

    The network is read in the mode it is in (train or eval). The work is done on a copy without hooks: parameters,
    buffers, attributes and random numbers of the model stay as they are. A network that cannot be read gives no blocks
    and a ``note``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"find_stages takes the model itself (an nn.Module), not {type(model).__name__}.")
    if not isinstance(example_input, Tensor | tuple | None):
        kind = type(example_input).__name__
        raise TypeError(f"example_input is a {kind}; give a tensor, or a tuple of the model's positional arguments.")
    flow, note = read(model, (example_input,) if isinstance(example_input, Tensor) else example_input)
    blocks, plain = assembled(flow, model)
    return Stages(blocks, plain, note)


def assembled(flow: Flow, model: nn.Module) -> tuple[tuple[Block, ...], tuple[str, ...]]:
    """The blocks of a dataflow, and the names of its plain residual blocks, in the order of execution."""
    layers, heavy, counts = matrix_layers(model), weighty(flow, model), Counter(flow.order)
    free = [path for path in flow.order if path in layers and counts[path] == 1]
    place = {path: j for j, path in enumerate(flow.order)}
    blocks, plain = dict[tuple[tuple[str, ...], ...], Region](), dict[frozenset[str], Region]()
    for region in sorted(flow.regions(), key=lambda region: len(region.calls)):
        ways = (tuple(path for path in free if path in branch) for branch in region.branches)
        branches = tuple(sorted((way for way in ways if way), key=lambda way: (-len(way), place[way[0]])))
        if len(branches) > 1:
            blocks[branches] = region
            free = [path for path in free if not any(path in way for way in branches)]
        elif is_plain(region, heavy):
            plain[region.calls] = region
    first = sorted(blocks, key=lambda branches: min(place[way[0]] for way in branches))
    names = unique(name_of(blocks[branches], heavy) for branches in first)
    found = (Block(name, kind_of(blocks[key]), key) for name, key in zip(names, first, strict=True))
    in_order = sorted(plain, key=lambda calls: sorted(place[path] for path in calls))
    return tuple(found), unique(name_of(plain[calls], heavy) for calls in in_order)


def kind_of(region: Region) -> str:
    if region.joins == "cat":
        return "inception"
    return "residual" if region.joins == "sum" and len(region.branches) == 2 else "parallel"


def weighty(flow: Flow, model: nn.Module) -> set[str]:
    """Paths of the called modules that train more than scales and shifts."""
    called = {path: model.get_submodule(path) for path in flow.order}
    return {path for path, module in called.items() if any(p.requires_grad and p.ndim > 1 for p in module.parameters())}


def is_plain(region: Region, heavy: set[str]) -> bool:
    """Whether a sum lets weights be passed by on a way without any."""
    ways = [not heavy.isdisjoint(way) for way in region.branches]
    return region.joins == "sum" and not heavy.isdisjoint(region.calls) and sum(ways) <= 1


def name_of(region: Region, heavy: set[str]) -> str:
    """The module that its layers have in common; where that is the whole model, the kind of region."""
    paths = [path.split(".") for path in sorted(region.calls & heavy or region.calls)]
    common = [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))]
    return ".".join(common) or kind_of(region)


def unique(names: Iterable[str]) -> tuple[str, ...]:
    """Repeated names numbered: layer, layer#2, layer#3."""
    seen = Counter[str]()
    return tuple(numbered(name, seen) for name in names)


def numbered(name: str, seen: Counter[str]) -> str:
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}#{seen[name]}"


def matrix_layers(model: nn.Module) -> set[str]:
    """Paths of the modules whose trainable parameters form a matrix and belong to them alone."""
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    found = set()
    for path, module in model.named_modules():
        own = {name: p for name, p in module.named_parameters(recurse=False) if p.requires_grad}
        if own and all(owners[id(p)] == 1 for p in own.values()):
            player = find(module, tuple(own))
            if isinstance(player, ModulePlayer) and player.is_matrix:
                found.add(path)
    return found


def check_blocks(blocks: Iterable[Block], model: nn.Module) -> None:
    """Raise ValueError unless all paths are modules of the model, each module in one block, and names differ."""
    blocks = tuple(blocks)
    for name, count in Counter(block.name for block in blocks).items():
        if count > 1:
            raise ValueError(f"{count} blocks are named {name!r}; give each a name of its own.")
    modules = {path: module for path, module in model.named_modules(remove_duplicate=False) if path}
    homes = dict[int, str]()
    for block, path in ((given, path) for given in blocks for way in given.branches for path in way):
        if path not in modules:
            near = get_close_matches(path, modules, n=1) or ["the paths of model.named_modules()"]
            raise ValueError(f"{path!r} in block {block.name!r} is no module of the model; compare {near[0]}.")
        if id(modules[path]) in homes:
            home = homes[id(modules[path])]
            raise ValueError(f"{path!r} sits in block {home!r} and again in {block.name!r}; leave it in one place.")
        homes[id(modules[path])] = block.name
