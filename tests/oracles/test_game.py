"""The joint step of layers that share a stage against dense solves, and the printed product form against both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from unittest import mock

import dense
import game as oracle
import metrics
import pytest
import torch
from engine import close
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from ocnopt import OCNOpt, solving
from ocnopt.core.bellman import Gain, Problem, backward_pass
from ocnopt.core.stage import Stage
from ocnopt.curvature import EKFAC, KFAC, Curvature
from ocnopt.game import coalition, cross
from ocnopt.game import metrics as joint_metrics
from ocnopt.game.blocks import Block
from ocnopt.game.coalition import together
from ocnopt.game.kinds import Cooperative, FeedbackNash, Kind, ProductCooperative
from ocnopt.game.metrics import BlockDiagonal, Joint
from ocnopt.game.product import ProductForm
from ocnopt.linalg.symmetric import Tally

DAMPING = 0.03
EXACT = Cooperative(tolerance=1e-13, iterations=300)
TWO = Block("block", "residual", (("left",), ("right",)))
THREE = Block("block", "inception", (("a",), ("b",), ("c",)))
SHORTCUT = Block("block", "residual", (("conv1", "conv2"), ("shortcut",)))


@dataclass
class Scene:
    """A net, the stage that its coalition played in a training step, and the columns of the loss at the output."""

    net: nn.Module
    layers: list[nn.Module]
    x: Tensor
    stage: Stage
    stages: list[Stage]
    columns: Tensor


def scene(
    net: nn.Module, block: Block, curvature: Curvature, kind: Kind = EXACT, alignment: int = 0, batch: int = 6
) -> Scene:
    """A training step of squared error with exact Gauss-Newton columns, and the coalition that it formed."""
    torch.manual_seed(0)
    net = net.double()
    for p in net.parameters():
        nn.init.normal_(p, std=0.6)
    shape = (2, 4, 4) if isinstance(net, oracle.ConvShortcut | oracle.Mixed) else (4,)
    x, y = torch.randn(batch, *shape).double(), torch.randn(batch, 3).double()
    options = {"terminal": "gauss-newton", "search": "fixed", "lr": 0.7, "feedback_samples": None, "saturation": None}
    optimizer = OCNOpt(net, curvature=curvature, game=kind, alignment=alignment, blocks=[block], **options)
    problems: list[Problem] = []

    def watched(problem: Problem) -> list[Gain]:
        problems.append(problem)
        return backward_pass(problem)

    before = [p.detach().clone() for p in net.parameters()]
    with mock.patch.object(solving, "backward_pass", watched):
        output = net(x)
        optimizer.backward(mse_loss(output, y), output)
        optimizer.step()
    with torch.no_grad():
        for p, old in zip(net.parameters(), before, strict=True):
            p.copy_(old)
    (problem,) = problems
    (stage,) = (stage for stage in problem.stages if len(stage.player.modules) > 1)
    columns = next(iter(s for s in problem.stages if s.label == "head")).calls[0].Y
    return Scene(net, list(stage.player.modules), x, stage, list(problem.stages), columns)


def own_blocks(s: Scene, curvature: Curvature, lr: float = 0.7) -> list[Tensor]:
    """M_u of every member at the first step, dense."""
    kind = metrics.young_ekfac if isinstance(curvature, EKFAC) else metrics.kfac
    pairs = [metrics.factors(s.net, layer, s.x, s.columns, 1.0) for layer in s.layers]
    return [kind(layer, A, B, curvature.damping, lr) for layer, (A, B) in zip(s.layers, pairs, strict=True)]


def dense_joint(s: Scene, curvature: Curvature, lr: float = 0.7) -> Tensor:
    numbers = range(len(s.layers))
    pairs = [(u, v) for u in numbers for v in numbers if u < v]
    crosses = {}
    for u, v in pairs:
        pair = (s.layers[u], s.layers[v])
        crosses[u, v] = oracle.scattered(pair, *oracle.cross(s.net, pair, s.x, s.columns)) / lr
    return oracle.joint(own_blocks(s, curvature, lr), crosses)


def check_joint(s: Scene, curvature: Curvature) -> None:
    """The library's joint solve is the dense one."""
    assert isinstance(s.stage.metric, Joint)
    expected = torch.linalg.solve(dense_joint(s, curvature), dense.flat(s.stage.gradient))
    close(dense.flat(s.stage.solve(s.stage.gradient)), expected, "M⁻¹Q", 1e-8)


BRANCHES = {"two": (oracle.TwoBranches, TWO), "three": (oracle.ThreeBranches, THREE)}
CURVATURES = {"kfac": KFAC(damping=DAMPING), "ekfac": EKFAC(damping=DAMPING)}


@pytest.mark.parametrize("curvature", CURVATURES)
@pytest.mark.parametrize("branches", BRANCHES)
def test_the_joint_step_is_the_dense_joint_solve(branches: str, curvature: str) -> None:
    build, block = BRANCHES[branches]
    check_joint(scene(build(nn.Tanh()), block, CURVATURES[curvature]), CURVATURES[curvature])


@pytest.mark.parametrize("branches", BRANCHES)
def test_on_a_linear_net_it_is_the_exact_gauss_newton_step(branches: str) -> None:
    """Where the cotangents do not depend on the sample, the Kronecker form is exact: no factor enters the oracle."""
    build, block = BRANCHES[branches]
    s = scene(build(nn.Identity()), block, CURVATURES["ekfac"])
    H = oracle.gauss_newton(s.net, s.layers, s.x, s.columns)
    damped = (H + DAMPING * torch.eye(len(H), dtype=H.dtype)) / 0.7
    expected = torch.linalg.solve(damped, dense.flat(s.stage.gradient))
    close(dense.flat(s.stage.solve(s.stage.gradient)), expected, "the joint Gauss-Newton step", 1e-8)


@pytest.mark.parametrize("alignment", [0, 1])
@pytest.mark.parametrize("first_stride", [2, 1])
@pytest.mark.parametrize("curvature", CURVATURES)
def test_a_strided_shortcut_beside_convolutions(curvature: str, first_stride: int, alignment: int) -> None:
    """With stride 1 in the first convolution, it has four times the shortcut's positions."""
    s = scene(oracle.ConvShortcut(first_stride), SHORTCUT, CURVATURES[curvature], alignment=alignment)
    assert [type(layer) for layer in s.layers] == [nn.Conv2d, nn.Conv2d]
    check_joint(s, CURVATURES[curvature])


@pytest.mark.parametrize("curvature", CURVATURES)
def test_linear_layers_beside_a_convolution(curvature: str) -> None:
    block = Block("block", "parallel", (("conv",), ("linear",), ("pixel",)))
    s = scene(oracle.Mixed(), block, CURVATURES[curvature])
    assert len(s.layers) == 3 and len(s.stage.metric.cross) == 3
    check_joint(s, CURVATURES[curvature])


@pytest.mark.parametrize("alignment", [0, 1])
@pytest.mark.parametrize("first_stride", [2, 1])
def test_own_and_cross_blocks_of_the_curvature_alone_are_semi_definite(first_stride: int, alignment: int) -> None:
    s = scene(oracle.ConvShortcut(first_stride), SHORTCUT, CURVATURES["ekfac"], alignment=alignment)
    M = dense_joint(s, EKFAC(damping=1e-30), lr=1.0)
    assert torch.linalg.eigvalsh(M).min() > -1e-12 * torch.linalg.eigvalsh(M).max()


def test_corrected_eigenvalues_weigh_the_cross_blocks() -> None:
    """With S ≠ s_B s_A the joint matrix is R (𝔸 ⊗ 𝔹 + λ) Rᵀ: own blocks as EKFAC has them, and positive definite."""
    s = scene(oracle.TwoBranches(nn.Tanh()), TWO, CURVATURES["ekfac"])
    metric, rng = s.stage.metric, torch.Generator().manual_seed(3)
    assert isinstance(metric, Joint)
    young = [block.S.clone() for block in metric.blocks]
    for block in metric.blocks:
        block.S.mul_(torch.rand(block.S.shape, generator=rng, dtype=torch.float64) * 9 + 0.1)
    weights = [((b.S + DAMPING) / (y + DAMPING)).sqrt() for b, y in zip(metric.blocks, young, strict=True)]
    metric = Joint([replace(block) for block in metric.blocks], metric.lengths, metric.cross, weights, 1e-13, 300)
    basis = [basis_of(layer, block) for layer, block in zip(s.layers, metric.blocks, strict=True)]
    R = [U @ torch.diag(w[0].flatten()) @ U.T for U, w in zip(basis, weights, strict=True)]
    M = torch.block_diag(*R) @ dense_joint(s, CURVATURES["ekfac"]) @ torch.block_diag(*R).T
    for block, U, own in zip(metric.blocks, basis, M.split(len(basis[0])), strict=True):
        at = 0 if block is metric.blocks[0] else len(basis[0])
        expected = U @ torch.diag((block.S + DAMPING).flatten() / 0.7) @ U.T
        close(own[:, at : at + len(U)], expected, "own block")
    assert torch.linalg.eigvalsh(M).min() > 0
    expected = torch.linalg.solve(M, dense.flat(s.stage.gradient))
    close(dense.flat(metric.solve(s.stage.gradient)), expected, "M⁻¹Q with corrected eigenvalues", 1e-8)


def basis_of(layer: nn.Module, block: joint_metrics.MatrixMetric) -> Tensor:
    """U_B ⊗ U_A as columns over the layer's flattened parameters."""
    U_A, U_B = block.bases
    at = metrics.places(layer).flatten()
    full = torch.zeros(len(at), len(at), dtype=torch.float64)
    full[at] = torch.kron(U_B[0], U_A[0])
    return full


# named special cases


def members_of(s: Scene) -> list[Stage]:
    """The coalition's members as stages of their own."""
    metric = s.stage.metric
    players = s.stage.player.members
    calls = [[call for call in s.stage.calls if s.stage.player.owner[id(call)] == j] for j in range(len(players))]
    gradients = s.stage.player.divided(s.stage.gradient)
    triples = zip(players, metric.blocks, calls, gradients, strict=True)
    stages = [Stage(p, m, c, g, s.stage.samples, s.stage.rank) for p, m, c, g in triples]
    return stages


def test_a_coalition_of_one_is_that_player() -> None:
    s = scene(oracle.TwoBranches(nn.Tanh()), TWO, CURVATURES["kfac"])
    left, _ = members_of(s)
    for metric in (BlockDiagonal([left.metric], [2]), Joint([left.metric], [2], {}, [None], 1e-2, 8)):
        one = together([left], metric).stage
        c, d = torch.randn(6, one.rank).double(), tuple(torch.randn_like(g) for g in left.gradient)
        same = [(one.pull(c), left.pull(c)), (one.solve(d), left.solve(d)), ((one.resp(d),), (left.resp(d),))]
        same += [(one.sample_products(), left.sample_products()), (one.gradient, left.gradient)]
        for ours, theirs in same:
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("curvature", CURVATURES)
def test_without_cross_blocks_it_is_the_block_diagonal_step(curvature: str) -> None:
    s = scene(oracle.TwoBranches(nn.Tanh()), TWO, CURVATURES[curvature])
    metric = s.stage.metric
    nash = BlockDiagonal(metric.blocks, metric.lengths).solve(s.stage.gradient)
    zero = {pair: type(P)(*(torch.zeros_like(X) for X in P)) for pair, P in metric.cross.items()}
    for crosses in ({}, zero):
        alone = Joint(metric.blocks, metric.lengths, crosses, metric.weights, 1e-2, 8).solve(s.stage.gradient)
        assert all(torch.equal(a, b) for a, b in zip(alone, nash, strict=True))


def test_feedback_nash_joins_own_blocks_alone() -> None:
    s = scene(oracle.TwoBranches(nn.Tanh()), TWO, CURVATURES["kfac"], FeedbackNash())
    assert isinstance(s.stage.metric, BlockDiagonal)
    M = torch.block_diag(*own_blocks(s, CURVATURES["kfac"]))
    expected = torch.linalg.solve(M, dense.flat(s.stage.gradient))
    close(dense.flat(s.stage.solve(s.stage.gradient)), expected, "the block-diagonal step")


@pytest.mark.parametrize("name", ["pull", "resp", "sample_products"])
@pytest.mark.parametrize("net", ["two", "conv"])
def test_a_coalition_is_a_player(net: str, name: str) -> None:
    """Its products are those of the Jacobian with respect to the parameters of all members."""
    build, block = (oracle.TwoBranches(nn.Tanh()), TWO) if net == "two" else (oracle.ConvShortcut(), SHORTCUT)
    s = scene(build, block, CURVATURES["kfac"])
    W = torch.cat(dense.sensitivities(s.net(s.x), s.layers, s.columns), 2)  # (N, r, p)
    c, d = torch.randn(W.shape[:2]).double(), tuple(torch.randn_like(g) for g in s.stage.gradient)
    if name == "pull":
        close(dense.flat(s.stage.pull(c)), torch.einsum("nrp,nr->p", W, c), "pull")
    elif name == "resp":
        close(s.stage.resp(d), W @ dense.flat(d), "resp")
    else:
        found = torch.cat([p.flatten(2) for p in s.stage.sample_products()], 2)
        close(found.transpose(0, 1), W, "f_θᵀY")


# the printed product form


def correlated(strength: float, seed: int, n_in: int = 5, n_out: int = 4) -> ProductForm:
    """Two players whose inputs and cotangents are correlated so strongly, with random own factors."""
    rng = torch.Generator().manual_seed(seed)

    def factors(n: int) -> tuple[Tensor, Tensor, Tensor]:
        X = torch.randn(20 * n, n, generator=rng, dtype=torch.float64)
        Y = strength * X + (1 - strength**2) ** 0.5 * torch.randn(20 * n, n, generator=rng, dtype=torch.float64)
        eye = 0.01 * torch.eye(n, dtype=torch.float64)
        return X.T @ X / (20 * n) + eye, Y.T @ Y / (20 * n) + eye, X.T @ Y / (20 * n)

    (A, A2, A12), (B, B2, B12) = factors(n_in), factors(n_out)
    blocks = [joint_metrics.MatrixMetric() for _ in range(2)]
    return ProductForm(blocks, [1, 1], [A, A2], [B, B2], {(0, 1): cross.Cross(A12, B12)})


def printed_step(form: ProductForm, g: Sequence[Tensor]) -> list[Tensor]:
    """Proposition 4 word for word, with Schur complements."""
    (A, A2), (B, B2) = form.A, form.B
    A12, B12 = form.cross[0, 1]
    out = []
    for Au, Av, Auv, Bu, Bv, Buv, gu, gv in (
        (A, A2, A12, B, B2, B12, g[0], g[1]),
        (A2, A, A12.T, B2, B, B12.T, g[1], g[0]),
    ):
        schur_A = Au - Auv @ torch.linalg.inv(Av) @ Auv.T
        schur_B = Bu - Buv @ torch.linalg.inv(Bv) @ Buv.T
        rest = gu - Buv @ torch.linalg.inv(Bv) @ gv @ (Auv @ torch.linalg.inv(Av)).T
        out.append(torch.linalg.inv(schur_B) @ rest @ torch.linalg.inv(schur_A))
    return out


def dense_quadratic(form: ProductForm) -> Tensor:
    own = [torch.kron(B, A) for A, B in zip(form.A, form.B, strict=True)]
    A, B = form.cross[0, 1]
    return oracle.joint(own, {(0, 1): torch.kron(B, A)})


def gradients_of(form: ProductForm, seed: int) -> list[Tensor]:
    """A gradient that the joint curvature could have made: M x for a random x."""
    rng = torch.Generator().manual_seed(100 + seed)
    M = dense_quadratic(form)
    g = M @ torch.randn(len(M), generator=rng, dtype=torch.float64)
    return [half.view(len(B), len(A)) for half, A, B in zip(g.split(len(g) // 2), form.A, form.B, strict=True)]


@pytest.mark.parametrize("strength", [0.2, 0.9])
def test_the_product_form_is_the_printed_one(strength: float) -> None:
    form = correlated(strength, 0)
    g = gradients_of(form, 0)
    for ours, printed in zip(form.printed(g), printed_step(form, g), strict=True):
        close(ours, printed, "the printed step", 1e-9)


def excess(strength: float, seed: int) -> float:
    """How many times too long the printed step is: its length over that of the best step along it."""
    form = correlated(strength, seed)
    g = gradients_of(form, seed)
    d = dense.flat(printed_step(form, g))
    return float((d @ dense_quadratic(form) @ d) / (dense.flat(g) @ d))


def test_the_printed_step_is_too_long() -> None:
    """1.1 to 14 times as the players correlate (DESIGN, fact 8)."""
    medians = [sorted(excess(strength, seed) for seed in range(9))[4] for strength in (0.1, 0.3, 0.5, 0.7, 0.9, 0.92)]
    assert medians == sorted(medians)
    assert 1.05 < medians[0] < 1.2
    assert 11 < medians[-1] < 15


@pytest.mark.parametrize("strength", [0.2, 0.6, 0.9])
def test_the_corrected_length_is_the_best_along_the_step(strength: float) -> None:
    form = correlated(strength, 1)
    g = gradients_of(form, 1)
    x = form.printed(g)
    d, M = dense.flat(x), dense_quadratic(form)
    best = (dense.flat(g) @ d) / (d @ M @ d)
    assert form.length(g, x) == pytest.approx(float(best), rel=1e-10)


@pytest.mark.parametrize("branches", BRANCHES)
def test_a_step_in_the_corrected_form_lowers_the_joint_quadratic(branches: str) -> None:
    """More than the printed one, no more than the exact one."""
    build, block = BRANCHES[branches]
    changes = []
    for kind in (EXACT, ProductCooperative(), ProductCooperative(corrected=False)):
        s = scene(build(nn.Tanh()), block, CURVATURES["kfac"], kind)
        M, g = dense_joint(s, CURVATURES["kfac"]), dense.flat(s.stage.gradient)
        d = -dense.flat(s.stage.solve(s.stage.gradient))
        changes.append(float(g @ d + 0.5 * d @ M @ d))
    exact, corrected, printed = changes
    assert exact < corrected < 0
    assert corrected <= printed


# what is indefinite


def test_an_indefinite_coalition_takes_its_own_blocks_and_is_counted() -> None:
    s = scene(oracle.TwoBranches(nn.Tanh()), TWO, CURVATURES["kfac"])
    metric, tally = s.stage.metric, Tally()
    wild = {pair: type(P)(-40 * P.A, P.B) for pair, P in metric.cross.items()}
    solution = Joint(metric.blocks, metric.lengths, wild, metric.weights, 1e-10, 50, tally).solve(s.stage.gradient)
    assert tally["coalitions indefinite"] == 1
    assert float(dense.flat(solution) @ dense.flat(s.stage.gradient)) > 0


# mutations: what each term is there for


def without_cross(real):
    return lambda self, X: [torch.zeros_like(x) for x in X]


def one_sided(real):
    """P_vu left out: the second player does not see the first."""

    def couple(self, X):
        out = real(self, X)
        return [out[0], torch.zeros_like(out[1]), *out[2:]]

    return couple


def sums_not_means(real):
    return lambda part, m, flatten: real(part, m, flatten)._replace(Z=part.Z[0, :m].flatten(0, 1).repeat(1, 1) * 1.1)


MUTATIONS = {
    "cross blocks left out": (Joint, "couple", without_cross),
    "one player does not see the other": (Joint, "couple", one_sided),
    "inputs of the cross block too large": (cross, "rows_of", sums_not_means),
    "cross blocks not turned into the eigenbasis": (cross, "rotated", lambda real: lambda X, U, V: X),
    "the learning rate left out of the cross blocks": (
        Joint,
        "weigh",
        lambda real: lambda self, u, X: X if self.weights[u] is None else X * self.weights[u],
    ),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_catches(mutation: str) -> None:
    owner, name, new = MUTATIONS[mutation]
    with mock.patch.object(owner, name, new(getattr(owner, name))), pytest.raises(AssertionError, match="M⁻¹Q"):
        check_joint(scene(oracle.TwoBranches(nn.Tanh()), TWO, CURVATURES["ekfac"]), CURVATURES["ekfac"])


def test_catches_a_member_whose_calls_are_another_s() -> None:
    real = coalition.CoalitionPlayer.pull

    def swapped(self, call, u):
        return tuple(reversed(real(self, call, u)))

    with mock.patch.object(coalition.CoalitionPlayer, "pull", swapped), pytest.raises((AssertionError, RuntimeError)):
        test_a_coalition_is_a_player("two", "pull")
