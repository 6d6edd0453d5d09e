"""What to expect of a model, and what to do about it, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ocnopt_lab.doctor.examination import Layer, parameter_bytes, total

REMEDIES = {
    "by a parametrization": "Nothing to do, or train without the parametrization.",
    "rebuilt by a forward pre-hook": "Nothing to do, or train without it; a parametrization would fare the same.",
    "holds a raw parameter": "Move the parameter into a small module of its own that is called with the activations.",
    "without calling it": "Nothing to do: it is trained open loop.",
    "communicate with all ranks": "Use BatchNorm or GroupNorm if its feedback matters.",
    "batch_first=False": "Build it with batch_first=True.",
    "rescales its weight": "Leave max_norm out.",
    "divides gradients by word counts": "Leave scale_grad_by_freq out.",
    "sparse gradients": "Build it with sparse=False: OCNOpt refuses sparse gradients.",
    "Other modules share": "Nothing to do, or untie the weights.",
}
"""Words of a refusal, and what can be done."""


def expectations(model: nn.Module, layers: list[Layer], curvature: str) -> list[str]:
    """Sentences, the general ones first."""
    told: list[Callable[[], Iterator[str]]] = [
        lambda: participation(layers),
        lambda: memory(model, layers),
        lambda: cost(layers, curvature),
        lambda: without_player(layers),
        lambda: generic(layers),
        lambda: frozen(layers),
        lambda: mixing(model),
        lambda: in_place(model),
    ]
    return [sentence for part in told for sentence in part()]


def participation(layers: list[Layer]) -> Iterator[str]:
    trained = [layer for layer in layers if layer.parameters]
    playing = [layer for layer in trained if layer.feedback]
    share = total(playing, "parameters") / total(trained, "parameters")
    yield (
        f"{len(playing)} of {len(trained)} layers, with {share:.0%} of the parameters, can take part in the feedback, "
        "as long as they are called as modules on the model's batch. Parameters outside of it are trained open loop."
    )
    if not playing:
        yield "Without any feedback OCNOpt is a diagonal optimizer like AdamW; it has nothing to add here."


def memory(model: nn.Module, layers: list[Layer]) -> Iterator[str]:
    kept, own = total(layers, "state"), parameter_bytes(model)
    yield f"The optimizer keeps {megabytes(kept)}, {kept / own:.1f} times the parameters; Adam keeps 2 times."


def cost(layers: list[Layer], curvature: str) -> Iterator[str]:
    most = max(layers, key=lambda layer: layer.rows)
    if most.rows:
        yield (
            f"The metric of {most.path} costs most: in every step as much as {most.rows:.0f} rows (samples "
            "times positions) of the layer's own forward and backward pass. A batch of fewer rows spends more time on "
            "the metric than on the layer."
        )
    else:
        yield f"curvature={curvature!r} keeps diagonals alone: the metric costs no more than Adam's."
    yield (
        "Every layer has some fixed work in a step besides, so small networks with small batches take several times "
        "Adam's time; --input-shape shows it, and `ocnopt profile` measures it for a problem."
    )
    if heavy := [layer for layer in layers if layer.cost == "high"]:
        yield (
            f"{listed(heavy)}: for cheaper steps lower max_factor and block_size of the curvature, so that wide sides "
            "are kept in blocks, or take curvature='adam'."
        )


def without_player(layers: list[Layer]) -> Iterator[str]:
    for layer in layers:
        if layer.reason and layer.parameters:
            yield f"{layer.path} has no player: {layer.reason} {remedy(layer)}"


def remedy(layer: Layer) -> str:
    if layer.module == "MultiheadAttention":
        return "Nothing to do: its packed weights are trained open loop."
    return next((what for words, what in REMEDIES.items() if words in layer.reason), "")


def generic(layers: list[Layer]) -> Iterator[str]:
    served = [layer for layer in layers if layer.player == "generic" and layer.parameters]
    if served:
        yield (
            f"{listed(served)}: served by automatic differentiation of a repeated call, which is exact and slower; "
            "the call must give the same result when it is repeated."
        )


def frozen(layers: list[Layer]) -> Iterator[str]:
    still = [layer for layer in layers if layer.frozen]
    if still:
        yield f"{listed(still)}: {total(still, 'frozen'):,} parameters are frozen and stay where they are."


def mixing(model: nn.Module) -> Iterator[str]:
    names = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if names:
        yield (
            f"Batch statistics ({some(names)}) let samples act on each other, so what the feedback says of each sample "
            "is approximate; steps stay sound. GroupNorm or LayerNorm would make it exact."
        )


def in_place(model: nn.Module) -> Iterator[str]:
    names = [name for name, module in model.named_modules() if getattr(module, "inplace", False)]
    if names:
        yield (
            f"Operations in place ({some(names)}) do no harm with rollout='linear', the default; rollout='nonlinear' "
            "may find an input overwritten and falls back to it."
        )


def listed(layers: list[Layer]) -> str:
    return some([layer.path for layer in layers])


def some(names: list[str], most: int = 4) -> str:
    """The first few names, and how many more there are."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"
