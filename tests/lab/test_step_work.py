"""A guard over what a step does, in operations, calls and waits rather than seconds; and the counting itself.

The bounds are those of the method. F: the model's forward pass over the batch.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as fn
from torch.utils.flop_counter import FlopCounterMode

from ocnopt_lab.data import Dataset
from ocnopt_lab.problems import Problem
from ocnopt_lab.problems.networks import Convolutional, FullyConnected, Sized
from ocnopt_lab.profiling.clocks import ProcessorClock
from ocnopt_lab.profiling.counting import Counter, Traffic, Work, size, total
from ocnopt_lab.profiling.formulas import FORMULAS
from ocnopt_lab.profiling.measuring import Counted, count
from ocnopt_lab.profiling.phases import BACKWARD, FORWARD, MOVE, OUTSIDE, PhasedTrainer, phase_seconds, take
from ocnopt_lab.profiling.timing import endless
from ocnopt_lab.profiling.variants import BASELINE, REFERENCE, VARIANTS, WITH
from ocnopt_lab.runs.config import RunConfig
from ocnopt_lab.runs.trainer import Trainer
from ocnopt_lab.tasks import Classification

BATCH, WIDTH, CLASSES = 64, 24, 5
WARM = 56  # the first steps all have feedback, and gather and decompose more often
NETWORKS: dict[str, tuple[Sized, tuple[int, ...]]] = {
    "mlp": (FullyConnected(WIDTH), (16,)),
    "cnn": (Convolutional((True, True), 16, 8), (1, 12, 12)),
}
FREE, LINEAR = "ocnopt adam, no feedback", "ocnopt adam, linear, all, every step"
PART, NONLINEAR = "ocnopt adam, linear, 64, every step", "ocnopt adam, nonlinear, every step"
SPARING = "ocnopt adam, linear, 64"
each_network = pytest.mark.parametrize("network", NETWORKS)


def parts(variant: str, network: str, depth: int = 1, batch: int = BATCH) -> tuple[RunConfig, Problem, Dataset]:
    model, shape = NETWORKS[network]
    torch.manual_seed(0)
    x, y = torch.randn(4 * batch, *shape), torch.randint(CLASSES, (4 * batch,))
    config = RunConfig("made", 10**6, batch, VARIANTS[variant], schedule="constant")
    problem = Problem("made", "", "made", model, batch, 1).sized(1, depth)
    return config, problem, Dataset("made", x, y, x, y, CLASSES, Classification())


def following(*args, **options) -> PhasedTrainer:
    return PhasedTrainer(*parts(*args, **options))


@cache
def counted(variant: str, network: str, depth: int = 1, batch: int = BATCH) -> Counted:
    trainer = following(variant, network, depth, batch)
    take(endless(trainer), WARM)
    return count(trainer, batch)


def work(*args, **options) -> Work:
    return total(counted(*args, **options).phases)


def added(variant: str, network: str, **options) -> float:
    """Operations beyond those of torch's Adam, in F."""
    F = counted(BASELINE, network, **options).phases[FORWARD].operations
    return (work(variant, network, **options) - work(BASELINE, network, **options)).operations / F


# what a step does


@each_network
def test_without_feedback_a_step_is_that_of_adamw(network: str) -> None:
    """The same operations, in no more calls than torch's foreach AdamW, the look whether all is finite among them."""
    assert added(FREE, network) == 0
    assert work(FREE, network).calls <= work(REFERENCE, network).calls < work(BASELINE, network).calls


@each_network
def test_linear_feedback_takes_the_products_of_the_recursion(network: str) -> None:
    """G, resp(Y, k), pull(Y a), the correction's pull and resp(Y, δθ): five products. Convolutions form per-sample
    weights once, which serve all of them: below the floor of a response and a pull."""
    assert 0 < added(LINEAR, network) <= {"mlp": 5.0, "cnn": 1.25}[network] * 1.05


@each_network
def test_feedback_on_a_part_of_the_batch_takes_that_part(network: str) -> None:
    """64 of 256: a quarter, in units of the larger F."""
    assert added(PART, network, batch=4 * BATCH) <= 0.25 * added(LINEAR, network, batch=4 * BATCH) * 1.05


@each_network
def test_feedback_now_and_then_takes_one_in_so_many_steps(network: str) -> None:
    """64 of 64 in every eighth step; in between nothing is captured, and steps are as cheap as without feedback."""
    between = work(FREE, network)
    assert added(SPARING, network) <= added(LINEAR, network) / 8 * 1.05
    assert work(SPARING, network).calls <= (7 * between.calls + work(LINEAR, network).calls) / 8 * 1.05


@each_network
def test_a_nonlinear_step_adds_a_forward_pass_and_seven_products(network: str) -> None:
    """On the 16 samples in 64 that feedback looks at by default: in a chain of layers nobody needs the others. Five
    products of the recursion, and two with which each layer is linearised."""
    assert added(NONLINEAR, network) <= 0.25 * (1 + 5 + 2) * 1.05


def metric_of_mlp() -> float:
    """What EKFAC adds, in F: two solves, and a period's statistics and decompositions. It holds its own block: no G."""
    sizes = [(n + 1, m) for n, m in pairwise([*NETWORKS["mlp"][1], *[WIDTH] * 4, CLASSES])]
    F = sum(2 * BATCH * (n - 1) * m for n, m in sizes)
    solves = sum(2 * 4 * n * m * (n + m) for n, m in sizes)
    rotation = sum(2 * BATCH * (n**2 + m**2) for n, m in sizes)
    products = sum(2 * BATCH * n * m for n, m in sizes)
    statistics = (2 * rotation + products + 2 * F) / 10  # both factors, S in the basis, a pass for drawn labels
    bases = sum(9 * (n**3 + m**3) + 2 * (n**3 + m**3) + 2 * n * m * (n + m) for n, m in sizes) / 50
    return (solves + statistics + bases) / F


def test_the_default_takes_the_recursion_and_the_metric() -> None:
    """Four products of the recursion, without G, and the response along the search's second direction."""
    assert added(WITH, "mlp") <= (4 + 1 + metric_of_mlp()) * 1.05


def test_the_default_on_convolutions_is_within_the_floor() -> None:
    """Feedback's two products and the search's third, per-sample weights being formed once."""
    assert added(WITH, "cnn") <= 2.6


@each_network
@pytest.mark.parametrize("variant", [FREE, LINEAR, NONLINEAR, WITH])
def test_waits_do_not_grow_with_depth(network: str, variant: str) -> None:
    """A wait for each layer would leave a device idle as often; the default's are those of its plain steps."""
    shallow, deep = (some_waits(variant, network, depth) for depth in (1, 2))
    assert deep == shallow <= {FREE: 2, LINEAR: 4, NONLINEAR: 4, WITH: 9}[variant]


def some_waits(variant: str, network: str, depth: int) -> float:
    """Of the step with the fewest among four, after the first ones: statistics and decompositions fall in others."""
    trainer, found = following(variant, network, depth), []
    take(endless(trainer), WARM)
    for _ in range(4):
        counter = Counter()
        with trainer.phases.metered(counter), counter.running():
            take(endless(trainer), 1)
            trainer.phases.switch(OUTSIDE)
        found.append(total({k: x for k, x in counter.parts.items() if k != OUTSIDE}).waits)
    return min(found)


@each_network
def test_calls_of_feedback_grow_with_the_layers_alone(network: str) -> None:
    """Not with those before: a loop over pairs of layers would show."""
    for depth in (1, 2):
        layers = sum(isinstance(m, nn.Linear | nn.Conv2d) for m in following(LINEAR, network, depth).model)
        beyond = work(LINEAR, network, depth=depth) - work(REFERENCE, network, depth=depth)
        assert beyond.calls <= 75 + 75 * layers


# how it is counted


def operations(call) -> int:
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_a_convolution_takes_the_same_three_times(layer: type, groups: int) -> None:
    """Forward, and backward for input and weight: each multiplies every input with every weight that it meets."""
    module, x = layer(4, 8, 3, groups=groups), torch.randn(5, 4, 9, 9, requires_grad=True)
    met = 5 * (7 * 7 if layer is nn.Conv2d else 9 * 9)
    once = 2 * met * module.weight.numel()
    assert operations(lambda: module(x)) == once
    assert operations(lambda: module(x).sum().backward()) == 3 * once


def test_counting_holds_no_tensors() -> None:
    """Twice as many steps hold as much at once: torch's counter by module would keep those of every call."""
    trainer = following(WITH, "mlp")
    take(endless(trainer), WARM)
    once, twice = (count(trainer, BATCH, steps).held for steps in (20, 40))
    assert twice < 1.1 * once


def test_products_and_decompositions_are_counted() -> None:
    A, b, v = torch.eye(6) + 1, torch.ones(6, 4), torch.ones(6)
    assert operations(lambda: torch.einsum("ab,cb->ac", A, A)) == 2 * 6**3
    assert operations(lambda: A @ v) == 2 * 36 and operations(lambda: v @ v) == 2 * 6
    assert operations(lambda: torch.linalg.eigh(A)) == 9 * 6**3
    assert operations(lambda: torch.cholesky_inverse(torch.linalg.cholesky(A))) == 6**3
    assert operations(lambda: torch.cholesky_solve(b, A)) == 2 * 6 * 6 * 4
    assert operations(lambda: torch.linalg.solve(A, b)) == 2 * 6**3 // 3 + 2 * 6 * 6 * 4
    q = torch.randn(2, 3, 8, 4)
    assert operations(lambda: fn.scaled_dot_product_attention(q, q, q)) == 2 * 2 * (2 * 3 * 8 * 8 * 4)


def moved(call) -> Traffic:
    with Traffic() as traffic:
        call()
    return traffic


def test_bytes_are_those_of_what_is_read_and_written() -> None:
    x, y = torch.ones(10, 10), torch.ones(10, 10)
    one = 400
    cases = {
        "add": (lambda: x + y, 3 * one),
        "in place": (lambda: x.add_(y), 3 * one),
        "copy": (lambda: x.copy_(y), 2 * one),
        "fill": (lambda: x.zero_(), one),
        "foreach": (lambda: torch._foreach_add_([x, x], [y, y]), 6 * one),
        "out": (lambda: torch.add(x, y, out=x), 3 * one),
        "repeated": (lambda: x[:1].expand(10, 10) + y, 40 + 2 * one),
        "views": (lambda: x.T.reshape(100).expand(3, 100), 2 * one),  # reshape copies what is transposed
        "nothing": (lambda: torch.empty(10, 10).detach().view(100), 0),
    }
    for name, (call, bytes_) in cases.items():
        assert moved(call).bytes == bytes_, name
    assert moved(lambda: x.T.view_as(x)).calls == 0 and moved(lambda: x.sum().item()).waits == 1
    assert size(torch.ones(3).expand(5, 3)) == 12 and size(torch.empty(0, 3)) == 0


def test_the_most_memory_at_once_is_seen() -> None:
    def chain() -> Tensor:
        x = torch.ones(100)
        for _ in range(5):
            x = (x + 1).view(10, 10).view(100)  # the one before is released
        return x

    assert moved(chain).peak == 2 * 400
    held = moved(lambda: [torch.ones(100) for _ in range(5)])
    assert held.peak == 5 * 400 and held.alive == 0


@pytest.mark.parametrize("variant", [BASELINE, PART, NONLINEAR, WITH])
def test_whoever_counts_changes_nothing(variant: str) -> None:
    """The same parameters after the same steps, to the bit."""
    plain, seen = Trainer(*parts(variant, "mlp")), following(variant, "mlp")
    counter = Counter()
    with seen.phases.metered(counter), counter.running():
        take(endless(seen), 6)
    take(endless(plain), 6)
    assert total(counter.parts).calls > 0
    for p, q in zip(plain.model.parameters(), seen.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_time_is_charged_to_the_phase_it_is_spent_in(monkeypatch) -> None:
    now = iter([0.0, 1.0, 3.0, 6.0])
    monkeypatch.setattr("ocnopt_lab.profiling.clocks.time.perf_counter", lambda: next(now))
    clock = ProcessorClock()
    for phase in (OUTSIDE, FORWARD, BACKWARD, FORWARD):
        clock.charge(phase)
    assert clock.seconds() == {FORWARD: 4.0, BACKWARD: 2.0}


def test_every_phase_of_a_step_has_its_time() -> None:
    trainers = {name: following(name, "mlp") for name in (REFERENCE, WITH)}
    found = phase_seconds(trainers, 2, 2, lambda: None)
    assert list(found[REFERENCE]) == [FORWARD, BACKWARD, MOVE]
    inner = {"statistics", "decompositions", "backward pass", "forward pass", "search", "the rest"}
    assert set(found[WITH]) == {FORWARD, BACKWARD, MOVE} | inner
    assert all(x > 0 for parts in found.values() for x in parts.values())
