"""The order of one step: statistics, metrics, the Bellman pass, the policy, the move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .core.bellman import Gain, Problem, Saturation, backward_pass
from .core.capture import Capture
from .core.joint import joint_steps
from .core.policy import Step, open_loop
from .core.ranks import ALONE, Ranks
from .core.rollout import Linear, Rollout
from .core.stage import Stage, minus, zeros
from .core.terminal import Terminal
from .core.turned import plain_step, turned
from .core.value import Value
from .curvature import Kronecker
from .curvature.metrics import DiagonalMetric, solve_all
from .finiteness import are_finite
from .game.coalition import Side, alone
from .game.play import Game
from .gathering import Boundary, Turn, boundary_of, stage_of
from .guarding import Guard
from .linalg.symmetric import Tally
from .measuring import Factors, give_denominators, measure_diagonals, states_of
from .observing import BLIND, Blind
from .played import Played
from .seats import ROOT
from .updates import Clock, Method, diagonal_of

UNASKED = DiagonalMetric((), ())
"""Of turns whose step is the diagonal's own rule, where nobody plays: by name alone."""


@dataclass(frozen=True)
class Solver:
    """The four axes of the method and what a step needs besides.

    method: search and curvature.  feedback: κ.  samples: how many of each sweep the feedback sees.
    game: of players that share a stage; None where each has its own.  ranks: that share the batch.
    resting: turns that do not move in this step; their Kronecker statistics must be there when they do.
    watch: what looks into the step.
    due: whether this step has feedback; without, all layers take the open loop's.
    """

    method: Method
    value: Value
    terminal: Terminal
    rollout: Rollout
    feedback: float
    samples: int | None
    saturation: float | None
    tally: Tally
    game: Game | None = None
    ranks: Ranks = ALONE
    resting: Sequence[Turn] = ()
    watch: Blind = BLIND
    due: bool = True

    def step(self, turns: Sequence[Turn], capture: Capture, clock: Clock) -> float | None:
        """Move all parameters of the turns. Returns the loss, where the trajectory shows it."""
        with plainly(turns):
            self.decay(turns)
            self.measure(turns, clock)
            played = self.propose(turns, calibrated(self.boundary(turns, capture), clock), clock)
            if played is not None and played.boundary.loss is not None:
                clock.update(share=played.boundary.share(self.samples), batch=played.boundary.batch)
            with self.watch.phase("move"):
                if self.guard.passes(turns, clock):
                    self.method.apply(turns, played, clock)
        return None if played is None else played.boundary.loss

    @property
    def guard(self) -> Guard:
        return Guard(self.method, self.due, self.tally, self.ranks)

    @property
    def plays(self) -> bool:
        """Whether anybody asks for a metric: the passes, or a search whose steps are those of one."""
        return (self.feedback > 0 and self.due) or self.method.needs_responses

    def boundary(self, turns: Sequence[Turn], capture: Capture) -> Boundary | None:
        """The terminal condition; None where nobody plays, or the feedback rests."""
        playing = [turn for turn in turns if turn.feedback]
        if not (playing and self.plays and self.due):
            return None
        like = playing[0].gradients[0].new_empty(0, dtype=self.precision(playing[0].gradients[0].dtype))
        return boundary_of(playing, capture, self.terminal, like, self.samples)

    @property
    def jointly(self) -> bool:
        """Whether one linear system gives the steps of the recursion, with less rounding."""
        return getattr(self.method, "proximal", False) and isinstance(self.rollout, Linear)

    def precision(self, dtype: torch.dtype) -> torch.dtype:
        """Of the core. λ is lost in the rounding of a Gram matrix long before small losses of a float32 model are."""
        return torch.promote_types(dtype, torch.float64 if self.jointly else torch.float32)

    def propose(self, turns: Sequence[Turn], boundary: Boundary | None, clock: Clock) -> Played | None:
        """Effective gradients and steps of all turns, in their present metrics."""
        for turn in turns:
            turn.step = ()
        playing = [turn for turn in turns if turn.feedback]
        played = None if boundary is None else self.play(playing, boundary, clock)
        self.settle([turn for turn in turns if not turn.step], clock)
        return played

    def decay(self, turns: Sequence[Turn]) -> None:
        """ℓ_θ: the L2 part of Q_θ, where weight decay is not decoupled."""
        if self.method.decoupled_decay:
            return
        for turn in turns:
            pairs = zip(turn.gradients, turn.params, turn.groups, strict=True)
            turn.gradients = [g.add(p, alpha=w) if (w := group["weight_decay"]) else g for g, p, group in pairs]

    def measure(self, turns: Sequence[Turn], clock: Clock) -> None:
        """Update the statistics and give every turn its metric."""
        with self.watch.phase("statistics"):
            self.guard.mend(turns, clock)
            self.gather(turns, clock)

    def gather(self, turns: Sequence[Turn], clock: Clock) -> None:
        curvature, damping = self.method.curvature, self.method.damping(clock)
        if isinstance(curvature, Kronecker):
            seated = (*turns, *self.resting)
            matrices = [turn for turn in seated if turn.player is not None and turn.player.is_matrix]
            self.factors(curvature).measure(matrices, clock["step"], damping)
        rule, _ = diagonal_of(curvature)
        measure_diagonals(rule, [turn for turn in turns if self.plays and not turn.kronecker])
        self.give_metrics(turns, damping)

    def redamp(self, turns: Sequence[Turn], clock: Clock) -> None:
        """The metrics at another λ, from the same statistics."""
        curvature, damping = self.method.curvature, self.method.damping(clock)
        if isinstance(curvature, Kronecker):
            self.factors(curvature).redamp([turn for turn in turns if turn.kronecker], clock["step"], damping)
        self.give_metrics(turns, damping)

    def factors(self, curvature: Kronecker) -> Factors:
        return Factors(curvature, self.game, self.tally, self.ranks, self.watch)

    def give_metrics(self, turns: Sequence[Turn], damping: float) -> None:
        curvature, (rule, _) = self.method.curvature, diagonal_of(self.method.curvature)
        give_denominators(rule, [turn for turn in turns if self.plays and not turn.kronecker])
        for turn in turns:
            scale = self.method.scale(turn)
            if turn.kronecker and isinstance(curvature, Kronecker):
                turn.metric = curvature.metric(turn.player, turn.state, damping, scale[0])  # type: ignore[arg-type]
            elif not self.plays:
                turn.metric = UNASKED
            else:
                turn.metric = DiagonalMetric(turn.denominators, scale).guarded(self.value.faint)

    def play(self, turns: Sequence[Turn], boundary: Boundary, clock: Clock) -> Played:
        """Steps of all turns with feedback, from the passes of the core."""
        C, samples = self.value.start(self.feedback * boundary.C, boundary.samples)
        ordered = sorted(turns, key=lambda turn: turn.order)
        stages = [stage_of(turn, boundary, samples) for turn in ordered]
        for turn, stage in zip(ordered, stages, strict=True):
            stage.previous = self.method.previous(turn)
        sides = self.sides(ordered, stages, clock)
        joint = [side.stage for side in sides]
        limits = Saturation(self.saturation, boundary.coordinates, samples.weight)
        problem = Problem(joint, self.value, C, self.method.pace(clock, turns[0].groups[0]["lr"]), limits)
        gains, steps = self.policy(problem) if self.feedback else ((), open_loop(joint))
        # All together first: each look waits for the device.
        sound = are_finite([x for step in steps for x in step.tensors])
        if not (sound or are_finite([d for step in steps for d in step.step])):
            self.tally["feedback not finite"] += 1
            gains, steps = (), open_loop(joint)
        self.watch.proposed(problem, sides, gains, steps)
        share_out(dict(zip(stages, ordered, strict=True)), sides, steps, boundary.name)
        if not sound:
            steps = [self.finite_or_none(*pair) for pair in zip(steps, sides, strict=True)]
        return Played(joint, steps, boundary, self.tally, self.watch)

    def finite_or_none(self, step: Step, side: Side) -> Step:
        """The step; none where it is not finite in the open loop either, as after a gradient near overflow."""
        if are_finite(step.tensors):
            return step
        self.tally["step not finite"] += 1
        self.tally.update(of_layers("step not finite", side))
        return Step(zeros(step.effective), zeros(step.step), torch.zeros_like(step.response), step.carried)

    def sides(self, turns: Sequence[Turn], stages: Sequence[Stage], clock: Clock) -> list[Side]:
        """Who decides together."""
        if self.game is None:
            return [alone(stage) for stage in stages]
        return self.game.sides(stages, states_of(turns), self.method.damping(clock))

    def policy(self, problem: Problem) -> tuple[Sequence[Gain], list[Step]]:
        if self.jointly:
            with self.watch.phase("backward pass"):
                joint = joint_steps(problem, self.tally)
            return self.watch.gains(problem), joint
        with self.watch.phase("backward pass"):
            seen = turned(problem) if isinstance(self.rollout, Linear) else problem
            gains = backward_pass(seen)
        with self.watch.phase("forward pass"):
            steps = [plain_step(*pair) for pair in zip(seen.stages, self.rollout.steps(seen, gains), strict=True)]
        held, negative = problem.saturation.counts()
        self.tally["feedback weights held"] += held
        self.tally["feedback weights negative"] += negative
        return gains, steps

    def settle(self, turns: Sequence[Turn], clock: Clock) -> None:
        """The effective gradients and the steps of turns that did not play: the open loop's."""
        for turn in turns:
            turn.effective = turn.gradients
        moving = [turn for turn in turns if turn.kronecker or (turn.feedback and self.method.steers(turn))]
        metrics = [turn.metric for turn in moving]
        solved = solve_all(metrics, [tuple(turn.gradients) for turn in moving])  # type: ignore[arg-type]
        for turn, d in zip(moving, solved, strict=True):
            turn.step = minus(d)
        if self.guard.wary(clock) and not are_finite([d for turn in turns for d in turn.step]):
            for turn in turns:
                turn.step = turn.step if are_finite(turn.step) else zeros(turn.step)


def calibrated(boundary: Boundary | None, clock: Clock) -> Boundary | None:
    """With what the search has learned of the curvature that C leaves out."""
    factor = clock.get("calibration", 1.0)
    if boundary is None or boundary.name != "true-vs-rest" or factor == 1.0:
        return boundary
    return replace(boundary, C=factor * boundary.C)


def share_out(owners: dict[Stage, Turn], sides: Sequence[Side], steps: Sequence[Step], terminal: str) -> None:
    """Give every turn its part of the step that its side has decided on."""
    for side, step in zip(sides, steps, strict=True):
        parts = zip(side.members, side.divided(step.effective), side.divided(step.step), strict=True)
        for member, effective, d in parts:
            turn = owners[member]
            turn.effective, turn.step, turn.terminal = effective, d, terminal
            turn.shares = side.stage.label if len(side.members) > 1 else ""


def of_layers(count: str, side: Side) -> dict[str, int]:
    """One more of a count for every layer of a side."""
    return {f"{member.label or ROOT}/{count}": 1 for member in side.members}


def plainly(turns: Sequence[Turn]) -> torch.autocast:
    """Autocast is for the model, not for the arithmetic of a step."""
    return torch.autocast(turns[0].params[0].device.type, enabled=False)
