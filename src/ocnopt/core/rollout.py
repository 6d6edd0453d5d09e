"""The nonlinear roll-out: a second forward pass that updates each layer as the new state reaches it.

    e  = Σ over atoms s already run of Y_sᵀ[ŷ_s − y_s − J_s(ẑ_s − z_s)]
    δθ = k − M⁻¹ pull(Y C (e + resp(Y, k)))

ẑ, ŷ are the new states, z, y the old ones, J_s = ∂y_s/∂z_s at the old. Whatever is linear in its input and does not
move adds nothing, so sums along skips cancel by themselves and e = Y_tᵀ(x̂_t − x_t) at every cut through the graph.
The term J_s(ẑ_s − z_s) is taken as (J_sᵀY_s)ᵀ(ẑ_s − z_s), by one reverse pass through the atom for each column: where
samples mix (batch statistics) this is the reading in which the sum telescopes sample by sample.
Operations outside of modules count as linear.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..linalg.symmetric import Tally
from .bellman import Gain, Problem
from .capture import Capture
from .policy import Step, forward_pass, react
from .recompute import Bare, attributes_kept, entering, replayed, tensors, tensors_kept
from .record import Record, Recorder, Visit
from .trajectory import Leaves, mapped
from .value import accumulated


class Rollout(Protocol):
    """How the deviation e of the state becomes known to the layers that react to it."""

    def steps(self, problem: Problem, gains: Sequence[Gain]) -> list[Step]:
        """The proposal of every stage, in forward order."""
        ...

    def unscale(self, scale: float) -> None:
        """What was seen of this step as if the loss had not been multiplied by ``scale``."""
        ...

    def clear(self) -> None:
        """Forget what was seen of this step."""
        ...

    def remove(self) -> None:
        """Take all hooks off the model."""
        ...


class Linear:
    """e ← e + resp(Y, δθ): see ``policy``."""

    def __init__(self, capture: Capture, tally: Tally) -> None:
        pass

    def steps(self, problem: Problem, gains: Sequence[Gain]) -> list[Step]:
        return forward_pass(problem, gains)

    def unscale(self, scale: float) -> None:
        pass

    def clear(self) -> None:
        pass

    def remove(self) -> None:
        pass


class Nonlinear:
    """e from the states of a second forward pass; linear for a step whose pass cannot be repeated, which is counted."""

    def __init__(self, capture: Capture, tally: Tally) -> None:
        self.recorder = Recorder(capture)
        self.tally = tally

    def steps(self, problem: Problem, gains: Sequence[Gain]) -> list[Step]:
        """Raises ValueError where the step had not exactly one forward sweep of the root."""
        record = self.recorder.only({call.sweep for stage in problem.stages for call in stage.calls})
        try:
            require_whole(record, gains)
            return Replay(self.recorder, problem, gains).run(record)
        except Unrepeatable as reason:
            self.tally[f"nonlinear roll-out {reason}"] += 1
            return forward_pass(problem, gains)

    def unscale(self, scale: float) -> None:
        for visit in (visit for record in self.recorder.records.values() for visit in record.visits):
            visit.call.unscale(scale)

    def clear(self) -> None:
        self.recorder.clear()

    def remove(self) -> None:
        self.recorder.remove()


class Unrepeatable(Exception):
    """The forward pass cannot be followed a second time."""


def require_whole(record: Record, gains: Sequence[Gain]) -> None:
    """Raise Unrepeatable unless every input is as it was and every captured call of a player was recorded.

    Reentrant checkpointing makes its calls outside of the sweep.
    """
    visits = [visit for visit in record.visits if visit.cotangents(1)]
    if any(visit.lost for visit in visits):
        raise Unrepeatable("lost an input")
    seen = Counter(visit.module for visit in visits)
    if any(sum(seen[module] for module in gain.stage.player.modules) != gain.stage.visits for gain in gains):
        raise Unrepeatable("missed a call")


class Replay:
    """A second forward pass, as a listener at the atoms.

    e: (N, r), None as long as nothing has moved.  dz: ẑ − z of the visit that is running.
    """

    def __init__(self, recorder: Recorder, problem: Problem, gains: Sequence[Gain]) -> None:
        self.recorder, self.problem = recorder, problem
        self.gains = {module: gain for gain in gains for module in gain.stage.player.modules}
        self.steps: dict[Gain, Step] = {}
        self.e: Tensor | None = None
        self.dz: list[Tensor] = []
        self.old: dict[int, Tensor] = {}
        self.batch = gains[0].stage.calls[0].batch

    @torch.no_grad()
    def run(self, record: Record) -> list[Step]:
        """Steps of all stages. Parameters, buffers, attributes and generators are afterwards as before."""
        model = self.recorder.capture.model
        gains = list(dict.fromkeys(self.gains.values()))
        players = [p for gain in gains for p in gain.stage.player.parameters]
        self.visits, self.enough = iter(record.visits), record.enough
        args = record.args if self.enough is None else tuple(x[: self.enough] for x in record.args)
        with self.recorder.heard_by(self), attributes_kept(model), tensors_kept([*players, *model.buffers()]) as old:
            self.old = old
            with record.beginning():
                model(*args, **record.kwargs)
        if next(self.visits, None) is not None:
            raise Unrepeatable("replayed differently")
        return [self.steps[gain] for gain in gains]

    def before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The new state reaches an atom: at its first call a player reacts and moves."""
        self.visit = self.expected(module)
        inputs = entering(args, kwargs)
        self.require_shapes(inputs, self.visit.entered)
        self.dz = differences(map(self.visit.first, inputs), self.visit.inputs) if self.steps else []
        gain = self.gains.get(module)
        if gain is not None and gain not in self.steps:
            self.move(gain)
            self.dz = self.dz or [torch.zeros_like(z) for z in self.visit.inputs]

    def after(self, module: nn.Module, output: Any) -> None:
        """The new state leaves an atom."""
        outputs = tensors(output)
        self.require_shapes(outputs, self.visit.call.sizes)
        if self.steps:
            self.e = accumulated(self.e, self.remainder(self.visit, outputs))

    def require_shapes(self, found: Sequence[Tensor], expected: Sequence[torch.Size]) -> None:
        """Raise Unrepeatable where the new state has other shapes than the old, but for samples that are left out."""
        if [x.shape for x in found] != [s if self.enough is None else (self.enough, *s[1:]) for s in expected]:
            raise Unrepeatable("replayed differently")

    def expected(self, module: nn.Module) -> Visit:
        visit = next(self.visits, None)
        if visit is None or visit.module is not module:
            raise Unrepeatable("replayed differently")
        return visit

    def move(self, gain: Gain) -> None:
        """δθ for the deviation so far, and the parameters where the whole step will take them, outside of autocast."""
        with torch.autocast(gain.stage.gradient[0].device.type, enabled=False):
            step = self.steps[gain] = react(self.problem, gain, self.e)
        ball = gain.stage.previous or [None] * len(step.step)
        for p, d, u in zip(gain.stage.player.parameters, step.step, ball, strict=True):
            p.add_(self.problem.pace.whole(d, u).to(p.dtype))

    def remainder(self, visit: Visit, outputs: list[Tensor]) -> Tensor:
        """Y_sᵀ[ŷ_s − y_s − J_s(ẑ_s − z_s)] of one visit, (N, r)."""
        stage = self.problem.stages[0]
        total = stage.gradient[0].new_zeros(stage.samples.count, stage.rank)
        columns = visit.cotangents(stage.rank)
        if not columns:
            return total
        y, z = recomputed(visit, self.old)
        dy = differences(map(visit.first, outputs), y)
        if all(self.splits(visit, d) for d in (*dy, *self.dz)):
            for j, Y in enumerate(columns):
                rows = self.by_sample(visit, Y, dy) - self.by_sample(visit, pulled_back(y, z, Y), self.dz)
                total[:, j] = rows[: len(total)]
        return total

    def by_sample(self, visit: Visit, U: Leaves, D: Sequence[Tensor]) -> Tensor:
        """⟨u, d⟩ of every sample, summed over the tensors of a visit: (B,)."""
        total = self.problem.stages[0].gradient[0].new_zeros(visit.samples or self.batch)
        for u, d in zip(U, D, strict=True):
            dim = self.sample_dim(visit, d)
            if u is not None and dim is not None:
                total += (u.to(d.dtype) * d).movedim(dim, 0).flatten(1).sum(1).to(total)
        return total

    def splits(self, visit: Visit, d: Tensor) -> bool:
        """Whether d can be told apart by samples. Other rows tell nothing, unless they did not change."""
        return self.sample_dim(visit, d) is not None or not bool(d.any())

    def sample_dim(self, visit: Visit, x: Tensor) -> int | None:
        """The dimension of x that holds the batch: where it is expected, else the first of its size."""
        capture = self.recorder.capture
        slot = capture.slots.get(visit.module)
        wanted = capture.batch_dim if slot is None else slot.dim
        batch = visit.samples or self.batch
        return next((dim for dim in (wanted, 0, 1) if x.dim() > dim and x.shape[dim] == batch), None)


@torch.enable_grad()
def recomputed(visit: Visit, old: dict[int, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """(y, z): the outputs of a visit at the old parameters and inputs, with the graph from the inputs."""
    z: list[Tensor] = []

    def traced(x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return x
        z.append(x.detach().requires_grad_())
        return z[-1].clone()  # which the module may overwrite

    args, kwargs = mapped(traced, visit.call.args, visit.call.kwargs)
    state = {f"module.{name}": old.get(id(p), p).detach() for name, p in visit.module.named_parameters()}
    state |= {f"module.{name}": buffer.clone() for name, buffer in visit.module.named_buffers()}
    with replayed(visit.call.rng), attributes_kept(visit.module):
        output = functional_call(Bare(visit.module), state, args, kwargs)
    return tensors(output), z


def pulled_back(y: Sequence[Tensor], z: Sequence[Tensor], Y: Leaves) -> Leaves:
    """JᵀY at every input z, None where it vanishes."""
    ends = [(h, u) for h, u in zip(y, Y, strict=True) if u is not None and h.requires_grad]
    if not ends or not z:
        return [None] * len(z)
    outputs, cotangents = zip(*ends, strict=True)
    return [*torch.autograd.grad(outputs, z, cotangents, retain_graph=True, allow_unused=True)]


def differences(new: Iterable[Tensor], old: Iterable[Tensor]) -> list[Tensor]:
    """new − old in float32 or better."""
    return [raised(a.detach()) - raised(b.detach()) for a, b in zip(new, old, strict=True)]


def raised(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
