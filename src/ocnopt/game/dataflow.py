"""The dataflow of one forward pass, and its regions: from where values part to where they meet again.

A join is a value made of several others. Its fork is the last value that all of these descend from,
and a branch is what lies on the ways from the fork to one of them:

    anc(n) = {n} ∪ anc(inputs of n)      fork = max ∩ᵢ anc(i)      branch(i) = {n ∈ anc(i) : fork ∈ anc(n), n ≠ fork}

with values numbered in an order in which none comes before what it is made of. Unlike a dominator,
the fork does not mind what enters a branch from elsewhere: a condition, the time of a diffusion step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import and_, or_

SUMS = {"add", "iadd", "sub", "isub", "rsub"}
CONCATENATIONS = {"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack"}


@dataclass(frozen=True)
class Node:
    """A value. inputs: numbers of the values it is made of.  op: by what.  call: the path of the module, if one did."""

    inputs: tuple[int, ...]
    op: str = ""
    call: str = ""

    @property
    def joins(self) -> str:
        """How several inputs meet: in a "sum", a "cat", or a "mix" (products, attention, anything else)."""
        if len(self.inputs) < 2:
            return ""
        return "sum" if self.op in SUMS else "cat" if self.op in CONCATENATIONS else "mix"


@dataclass(frozen=True)
class Region:
    """What lies between a fork and a join.

    joins: how the branches meet.  branches: the module calls that run in this branch alone, empty for an identity.
    calls: of all branches, those included that several run through.
    """

    joins: str
    branches: tuple[frozenset[str], ...]
    calls: frozenset[str]


@dataclass(frozen=True)
class Flow:
    """A forward pass. outputs: what it returns.  order: module calls as they were made, repeated ones repeatedly."""

    nodes: tuple[Node, ...] = ()
    outputs: tuple[int, ...] = ()
    order: tuple[str, ...] = ()

    @cached_property
    def ancestors(self) -> list[int]:
        """Of every value all that it is made of, itself included, as the bits of one integer."""
        found: list[int] = []
        for n, node in enumerate(self.nodes):
            found.append(reduce(or_, (found[i] for i in node.inputs), 1 << n))
        return found

    @cached_property
    def uses(self) -> Counter[int]:
        """How often every value is used; being returned is a use."""
        return Counter([*(i for node in self.nodes for i in node.inputs), *self.outputs])

    def regions(self) -> Iterator[Region]:
        """All of them, the inner before the outer. Joins that pass into one of their kind are one with it."""
        joins = [n for n, node in enumerate(self.nodes) if node.joins]
        absorbed = {self.inner(i, self.nodes[n].joins) for n in joins for i in self.nodes[n].inputs}
        for n in joins:
            operands = self.operands(n)
            common = reduce(and_, (self.ancestors[i] for i in operands))
            if n not in absorbed and len(operands) > 1 and common:
                yield self.region(n, operands, common.bit_length() - 1)

    def region(self, join: int, operands: list[int], fork: int) -> Region:
        branches = [self.between(fork, i) for i in operands]
        held = Counter(call for branch in branches for call in branch)
        own = tuple(frozenset(call for call in branch if held[call] == 1) for branch in branches)
        return Region(self.nodes[join].joins, own, frozenset(held))

    def between(self, fork: int, end: int) -> frozenset[str]:
        """Module calls on the ways from ``fork`` to ``end``, the one that made the fork left out."""
        on_the_way = (n for n in self.calling if n != fork and self.ancestors[end] >> n & self.ancestors[n] >> fork & 1)
        return frozenset(self.nodes[n].call for n in on_the_way)

    @cached_property
    def calling(self) -> list[int]:
        return [n for n, node in enumerate(self.nodes) if node.call]

    def operands(self, join: int) -> list[int]:
        """What meets in a join: its inputs, and for an input that it absorbs, the inputs of that one."""
        kind, found = self.nodes[join].joins, dict[int, None]()
        waiting = [*reversed(self.nodes[join].inputs)]
        while waiting:
            i = waiting.pop()
            inner = self.inner(i, kind)
            if inner is None:
                found[i] = None
            else:
                waiting += reversed(self.nodes[inner].inputs)
        return list(found)

    def inner(self, i: int, kind: str) -> int | None:
        """The join that input ``i`` of a join comes from, where the two are of one kind and nothing else uses it.

        Between products other operations may lie: softmax(q kᵀ) v is one meeting of q, k and v.
        """
        while kind == "mix" and self.uses[i] == 1 == len(self.nodes[i].inputs) and not self.nodes[i].call:
            (i,) = self.nodes[i].inputs
        same = self.nodes[i].joins == kind and self.uses[i] == 1 and not self.nodes[i].call
        return i if same else None


class Draft:
    """A flow in the making, of values under any keys, which come in an order in which none precedes its inputs."""

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}
        self.nodes: list[Node] = []

    def source(self, key: Hashable, call: str = "") -> None:
        """What enters the network."""
        self.numbers[key] = len(self.nodes)
        self.nodes.append(Node((), call=call))

    def add(self, key: Hashable, inputs: Iterable[Hashable], op: str = "", call: str = "") -> None:
        """A value. What is made of nothing that entered (of parameters or constants) is none; an embedding enters."""
        known = tuple(dict.fromkeys(self.numbers[i] for i in inputs if i in self.numbers))
        if known:
            self.numbers[key] = len(self.nodes)
            self.nodes.append(Node(known, op, call))
        elif call:
            self.source(key, call)

    def finished(self, outputs: Iterable[Hashable], order: Iterable[str]) -> Flow:
        """Only what the outputs are made of."""
        ends = dict.fromkeys(self.numbers[key] for key in outputs if key in self.numbers)
        ancestors = Flow(tuple(self.nodes)).ancestors
        live = reduce(or_, (ancestors[n] for n in ends), 0)
        kept = [n for n in range(len(self.nodes)) if live >> n & 1]
        place = {n: j for j, n in enumerate(kept)}
        used = (self.nodes[n] for n in kept)
        nodes = tuple(replace(node, inputs=tuple(place[i] for i in node.inputs)) for node in used)
        called = {node.call for node in nodes if node.call}
        return Flow(nodes, tuple(place[n] for n in ends), tuple(call for call in order if call in called))
