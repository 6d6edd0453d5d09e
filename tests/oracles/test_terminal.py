"""Terminal factors against the dense Hessian of every sample's loss in its outputs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from engine import close
from torch import Tensor, nn

from ocnopt.core import losses, terminal
from ocnopt.core.recognition import is_of_labels, recognise
from ocnopt.core.terminal import Auto, Fisher, GaussNewton, TrueVsRest

B, K, T = 6, 4, 3
Loss = Callable[[Tensor], Tensor]


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits (B, K), labels (B,), distributions (B, K), class weights (K,)."""
    draw = torch.Generator().manual_seed(3)
    h = torch.randn(B, K, generator=draw, dtype=torch.float64)
    y = torch.randint(K, (B,), generator=draw)
    t = torch.rand(B, K, generator=draw, dtype=torch.float64)
    return h, y, t / t.sum(1, keepdim=True), 0.5 + torch.rand(K, generator=draw, dtype=torch.float64)


LOGITS, LABELS, DISTRIBUTIONS, WEIGHTS = data()
IGNORED = LABELS.where(torch.arange(B) != 2, -100)
ONE_HOT = F.one_hot(LABELS, K).double()


def smooth(t: Tensor, amount: float) -> Tensor:
    return t * (1 - amount) + amount / K


CROSS_ENTROPIES: dict[str, tuple[Loss, Tensor, Tensor | float]] = {
    "labels": (lambda h: F.cross_entropy(h, LABELS), ONE_HOT, 1 / B),
    "labels, sum": (lambda h: F.cross_entropy(h, LABELS, reduction="sum"), ONE_HOT, 1.0),
    "ignored": (lambda h: F.cross_entropy(h, IGNORED, ignore_index=-100), ONE_HOT, (IGNORED >= 0).double() / (B - 1)),
    "ignored, sum": (
        lambda h: F.cross_entropy(h, IGNORED, ignore_index=-100, reduction="sum"),
        ONE_HOT,
        (IGNORED >= 0).double(),
    ),
    "weights": (lambda h: F.cross_entropy(h, LABELS, WEIGHTS), ONE_HOT, WEIGHTS[LABELS] / WEIGHTS[LABELS].sum()),
    "weights, sum": (lambda h: F.cross_entropy(h, LABELS, WEIGHTS, reduction="sum"), ONE_HOT, WEIGHTS[LABELS]),
    "distributions": (lambda h: F.cross_entropy(h, DISTRIBUTIONS), DISTRIBUTIONS, 1 / B),
    "smoothed": (lambda h: F.cross_entropy(h, LABELS, label_smoothing=0.2), smooth(ONE_HOT, 0.2), 1 / B),
}
"""Loss, targets t (B, K) and weights s (B,) with v = s (p − t)."""
OTHERS: dict[str, Loss] = {
    "distributions, sum": lambda h: F.cross_entropy(h, DISTRIBUTIONS, reduction="sum"),
    "smoothed, weights": lambda h: F.cross_entropy(h, LABELS, WEIGHTS, label_smoothing=0.2),
    "mse": lambda h: F.mse_loss(h, 3 * DISTRIBUTIONS),
    "mse, sum": lambda h: F.mse_loss(h, 3 * DISTRIBUTIONS, reduction="sum"),
    "bce": lambda h: F.binary_cross_entropy_with_logits(h, DISTRIBUTIONS),
}
LOSSES = {name: entry[0] for name, entry in CROSS_ENTROPIES.items()} | OTHERS


def hessian(loss: Loss, h: Tensor = LOGITS) -> Tensor:
    """∂²L/∂h_i², (B, K, K); the blocks between samples vanish."""
    full = torch.func.hessian(loss)(h).reshape(len(h), h[0].numel(), len(h), h[0].numel())
    return torch.stack([full[i, :, i] for i in range(len(h))])


def cotangent(loss: Loss, h: Tensor = LOGITS) -> Tensor:
    return torch.func.grad(loss)(h)


def factor_of(kind, loss: Loss, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """(Y (B, K, r), C) of a terminal factor."""
    output = LOGITS.clone().requires_grad_()
    columns, C, *_ = kind.factor(loss(output), output, torch.Generator().manual_seed(seed))
    return torch.stack(columns, -1) if columns else output.new_zeros(B, K, 0), C


def product(Y: Tensor, C: Tensor) -> Tensor:
    """Y C Yᵀ of every sample."""
    return torch.stack([y @ c @ y.T for y, c in zip(Y, C, strict=True)])


@pytest.mark.parametrize("name", LOSSES)
def test_gauss_newton_is_the_hessian(name: str) -> None:
    close(product(*factor_of(GaussNewton(), LOSSES[name])), hessian(LOSSES[name]), "Y C Yᵀ")


def test_gauss_newton_notices_a_lost_reduction(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: 1/B is forgotten."""
    real = terminal.output_hessian
    monkeypatch.setattr(terminal, "output_hessian", lambda loss, output: B * real(loss, output))
    with pytest.raises(AssertionError):
        test_gauss_newton_is_the_hessian("labels")


@pytest.mark.parametrize("name", ["labels", "weights", "ignored", "smoothed", "mse", "bce"])
def test_coordinates_give_v(name: str) -> None:
    output = LOGITS.clone().requires_grad_()
    columns, _, c, _ = GaussNewton().factor(LOSSES[name](output), output, torch.Generator())
    close(torch.einsum("bkr,br->bk", torch.stack(columns, -1), c), cotangent(LOSSES[name]), "v")


@pytest.mark.parametrize("name", ["labels", "ignored", "weights", "distributions", "mse", "bce"])
@pytest.mark.parametrize("rank", [1, 3])
def test_fisher_is_the_hessian_on_average(name: str, rank: int) -> None:
    draws = 1000
    mean = sum(product(*factor_of(Fisher(rank), LOSSES[name], seed)) for seed in range(draws)) / draws
    close(mean, hessian(LOSSES[name]), "mean of Y C Yᵀ", tolerance=0.1)


def test_fisher_notices_a_wrong_rank_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: the r in B/r is forgotten."""
    real = terminal.identity_core
    monkeypatch.setattr(terminal, "identity_core", lambda Y: real(Y) * Y.shape[-1])
    with pytest.raises(AssertionError):
        test_fisher_is_the_hessian_on_average("labels", 3)


def tight_core(loss: Loss, h: Tensor = LOGITS) -> Tensor:
    """1/(vᵀH⁺v) of every sample, 0 where v is, (B,)."""
    v, H = cotangent(loss, h).flatten(1), hessian(loss, h)
    lengths = torch.stack(
        [x @ torch.linalg.pinv(block, rtol=1e-12, hermitian=True) @ x for x, block in zip(v, H, strict=True)]
    )
    return torch.where(lengths > 0, 1 / lengths, 0.0)


@pytest.mark.parametrize("name", [*CROSS_ENTROPIES, "mse", "mse, sum", "bce"])
def test_true_vs_rest_is_the_tight_bound_along_v(name: str) -> None:
    """C = 1/(vᵀH⁺v), hence v C vᵀ ⪯ H."""
    loss = LOSSES[name]
    C = factor_of(TrueVsRest(), loss)[1] if name in OTHERS else recognise(LOGITS, cotangent(loss)).core()
    close(C.flatten(), tight_core(loss), "C")
    v = cotangent(loss)
    rest = hessian(loss) - C.view(B, 1, 1) * v[:, :, None] * v[:, None, :]
    assert torch.linalg.eigvalsh(rest).min() > -1e-12


def partly_linear(h: Tensor) -> Tensor:
    """Like a flow's likelihood: squares of all entries but the last, which enters as it is."""
    return (h[:, :-1].square().sum(1) + 2 * h[:, -1]).mean()


def test_true_vs_rest_leaves_out_what_the_loss_is_linear_in() -> None:
    """Y = v on the range of H, C = 1/(vᵀH⁺v) there; the whole of v would have C = 0."""
    Y, C = factor_of(TrueVsRest(), partly_linear)
    v = cotangent(partly_linear)
    v[:, -1] = 0
    tight = tight_core(lambda h: h[:, :-1].square().sum(1).mean())
    close(product(Y, C), tight[:, None, None] * v[:, :, None] * v[:, None, :], "Y C Yᵀ")
    output = LOGITS.clone().requires_grad_()
    columns, _, c, root = TrueVsRest().factor(partly_linear(output), output, torch.Generator())
    close(columns[0] * c, v, "v")
    close(root.square().diag_embed(), hessian(partly_linear), "root")
    assert torch.linalg.eigvalsh(hessian(partly_linear) - product(Y, C)).min() > -1e-12


def test_true_vs_rest_notices_a_larger_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: 1/B is forgotten in s."""
    real = losses.SoftmaxCrossEntropy.core
    monkeypatch.setattr(losses.SoftmaxCrossEntropy, "core", lambda self: real(self) / B)
    with pytest.raises(AssertionError):
        test_true_vs_rest_is_the_tight_bound_along_v("labels")


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
@pytest.mark.parametrize("across", [0.3, 1.0])
def test_across_leads_from_the_bound_to_the_trace(name: str, across: float) -> None:
    """C = c + across (tr H/|v|² − c) with c the bound; at 1, tr(v C vᵀ) = tr H."""
    v, H = cotangent(LOSSES[name]).flatten(1), hessian(LOSSES[name])
    c, trace, length = tight_core(LOSSES[name]), H.diagonal(dim1=1, dim2=2).sum(1), v.square().sum(1)
    wanted = torch.where(length > 0, c + across * (trace / length - c), 0.0)
    close(recognise(LOGITS, cotangent(LOSSES[name])).core(across), wanted, "C")


def test_across_averages_over_the_labels_of_a_sample() -> None:
    """Labels that move together stay together: only the classes of each are taken across."""
    h, y = positions()
    seen = recognise(h, cotangent(lambda h: F.cross_entropy(h, y), h))
    assert seen is not None

    def alone(t: int) -> Tensor:
        """Trace over bound of every sample, were its label at t the only one."""
        part = recognise(h[:, :, t], cotangent(lambda h: F.cross_entropy(h, y[:, t].clamp(min=0)), h[:, :, t]))
        return part.core(1.0) / part.core()

    ratio = torch.stack([alone(t) for t in range(T)], dim=1)
    share = ((seen.p - seen.t).square() / seen.p).sum(1) * seen.s[:, 0]
    close(seen.core(1.0), seen.core() * (share * ratio).sum(1) / share.sum(1), "C")


def test_across_must_be_a_share() -> None:
    with pytest.raises(ValueError, match=r"TrueVsRest\(across=1.5\) must lie in \[0, 1\]"):
        TrueVsRest(across=1.5)


def test_true_vs_rest_is_exact_for_two_classes() -> None:
    h, y = LOGITS[:, :2], LABELS % 2

    def loss(h: Tensor) -> Tensor:
        return F.cross_entropy(h, y)

    v = cotangent(loss, h)
    C = recognise(h, v).core()
    close(C.view(B, 1, 1) * v[:, :, None] * v[:, None, :], hessian(loss, h), "v C vᵀ")
    close(recognise(h, v).core(1.0), C, "C, which the trace allows no more than")


@pytest.mark.parametrize("name", CROSS_ENTROPIES)
def test_recognises_a_cross_entropy_and_its_parts(name: str) -> None:
    loss, t, s = CROSS_ENTROPIES[name]
    seen = recognise(LOGITS, cotangent(loss))
    assert seen is not None and seen.logits
    s = torch.as_tensor(s, dtype=torch.float64).expand(B)
    close(seen.p, LOGITS.softmax(1), "p")
    close(seen.s.flatten(), s, "s")
    close(seen.t[s > 0], t[s > 0], "t", tolerance=1e-8)


@pytest.mark.parametrize("name", ["labels", "ignored", "weights, sum"])
def test_recognises_log_softmax_and_nll(name: str) -> None:
    """F.cross_entropy of log-probabilities is nll_loss of them, seen from the log-softmax output."""
    log_p = LOGITS.log_softmax(1)
    nll = {
        "labels": lambda h: F.nll_loss(h, LABELS),
        "ignored": lambda h: F.nll_loss(h, IGNORED, ignore_index=-100),
        "weights, sum": lambda h: F.nll_loss(h, LABELS, WEIGHTS, reduction="sum"),
    }[name]
    _, t, s = CROSS_ENTROPIES[name]
    seen = recognise(log_p, cotangent(nll, log_p))
    assert seen is not None and not seen.logits
    s = torch.as_tensor(s, dtype=torch.float64).expand(B)
    close(seen.s.flatten(), s, "s")
    close(seen.t[s > 0], t[s > 0], "t")
    close(seen.core(), tight_core(LOSSES[name]), "C")


def positions() -> tuple[Tensor, Tensor]:
    """Logits (B, K, T) and labels (B, T), one of them ignored."""
    draw = torch.Generator().manual_seed(5)
    labels = torch.randint(K, (B, T), generator=draw)
    labels[1, 2] = -100
    return torch.randn(B, K, T, generator=draw, dtype=torch.float64), labels


@pytest.mark.parametrize("classes_last", [False, True])
def test_recognises_positions(classes_last: bool) -> None:
    h, y = positions()
    h = h.transpose(1, 2).contiguous() if classes_last else h

    def loss(h: Tensor) -> Tensor:
        return F.cross_entropy(h.transpose(1, 2) if classes_last else h, y)

    seen = recognise(h, cotangent(loss, h))
    assert seen is not None
    s = (y >= 0).double() / (B * T - 1)
    close(seen.s[:, 0], s, "s")
    close(seen.core(), tight_core(loss, h), "C")
    u = torch.stack([seen.sample(torch.Generator().manual_seed(i)) for i in range(2000)]).flatten(2)
    close(torch.einsum("nbi,nbj->bij", u, u) / len(u), hessian(loss, h), "mean of u uᵀ", tolerance=0.25)


@pytest.mark.parametrize("name", ["mse", "mse, sum", "bce", "noise"])
def test_recognises_nothing_else(name: str) -> None:
    noise = torch.randn(B, K, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    v = noise if name == "noise" else cotangent(OTHERS[name])
    assert recognise(LOGITS, v) is None
    assert recognise(LOGITS, torch.zeros_like(v)) is None


def test_a_cross_entropy_of_labels_shows_in_the_graph() -> None:
    """Of this very output, and with nothing behind it: then there is no diagonal H to look for."""
    h = LOGITS.clone().requires_grad_() * 1
    images = torch.randn(B, K, T, T, requires_grad=True) * 1
    weighted = F.cross_entropy(h, IGNORED, WEIGHTS, reduction="sum")
    pixels = F.cross_entropy(images, torch.randint(K, (B, T, T)))
    assert is_of_labels(F.cross_entropy(h, LABELS), h) and is_of_labels(weighted, h) and is_of_labels(pixels, images)
    words = nn.Linear(K, K)(torch.randn(B, T, K))  # whose last node is a view
    labels = torch.randint(K, (B, T))
    for loss in (
        F.cross_entropy(words.flatten(0, 1), labels.flatten()),
        F.cross_entropy(words.transpose(1, 2), labels),
        F.cross_entropy(words.movedim(-1, 1).contiguous(), labels),
    ):
        assert is_of_labels(loss, words)
    loss = F.cross_entropy(h, LABELS)
    others = [
        (2 * loss, h),
        (loss, h * 1),
        (F.cross_entropy(h * 1, LABELS), h),
        (F.cross_entropy(h, LABELS, label_smoothing=0.1), h),
        (F.cross_entropy(h, DISTRIBUTIONS), h),
        (F.nll_loss(h.log_softmax(0), LABELS), h),
        (F.cross_entropy(h[:, :1], torch.zeros_like(LABELS)), h),
        (F.mse_loss(h, DISTRIBUTIONS), h),
        (F.cross_entropy((2 * words).flatten(0, 1), labels.flatten()), words),
        (F.cross_entropy(words.flatten(0, 1), labels.flatten()), h),
        (h.sum(), h),
    ]
    assert not any(is_of_labels(*pair) for pair in others)
    one = LOGITS[:, :1].clone().requires_grad_() * 1
    assert not is_of_labels(F.cross_entropy(one, torch.zeros_like(LABELS)), one)


def test_what_the_graph_shows_is_what_looking_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    h = LOGITS.clone().requires_grad_() * 1
    told = Auto().factor(F.cross_entropy(h, LABELS), h, torch.Generator())
    monkeypatch.setattr(terminal, "is_of_labels", lambda loss, output: False)
    assert told == Auto().factor(F.cross_entropy(h, LABELS), h, torch.Generator())
