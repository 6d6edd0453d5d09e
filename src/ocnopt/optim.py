"""OCNOpt: a torch.optim.Optimizer that trains by optimal control. It gathers, calls and stores; no mathematics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .core.capture import Capture, Mode
from .core.compiling import Compiled, compiled_of, compiling
from .core.hooks import forget_compiled
from .core.terminal import Terminal
from .core.value import Value
from .curvature import Curvature
from .distributed import agree, require_spreadable, require_unsharded, require_whole, warn_if_unseen
from .evaluating import Again, again_of
from .finiteness import bound_of, finite
from .game.blocks import Block
from .game.kinds import Kind
from .game.play import game_on
from .gathering import Turn, require_core, seat_again, seat_calls, turn_of
from .inspecting import Inspected
from .layout import asks_for_layout, lay_out
from .linalg.symmetric import Tally
from .ode.foreign import watch
from .ode.replays import listen
from .options import Search, game_of, group_defaults, rate_of, require_limits, require_trainable, resolved, samples_of
from .passes import keep_outputs, require_attached, require_path, send_columns, try_out
from .reporting import Report
from .scaling import scale_of_caller
from .seats import seats_of
from .solving import Solver
from .trials import idle, limit_of, method_of, taken

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


class OCNOpt(Inspected):
    """Optimal-control training of a PyTorch module (Liu, Chen, Theodorou, arXiv 2510.14168).

    Layers are time steps and parameters controls; each layer's update is a feedback policy
    δθ = k + K δx that reacts to how the updates of the other layers have moved its input. The loop is
    that of AdamW: ``zero_grad(); loss.backward(); step()``.

    Args:
        model: the module to train. The optimizer hooks its layers; ``remove_hooks`` undoes that.
        lr: the step with search="fixed" (None: 1e-2 for sgd, 1e-3 for rmsprop and adam, 2e-3 for kfac and
            ekfac); the longest step with search="bounded" (None: 0.25); a multiplier of the search's own step
            otherwise (None: 0.7 for "model", else 1).
        curvature: the metric: "sgd", "rmsprop", "adam", "kfac", "ekfac", or an object of ``ocnopt.curvature``.
        terminal: the factor of the loss's curvature: "auto", "gradient", "true-vs-rest", "gauss-newton",
            "fisher", or an object of ``ocnopt.core.terminal``.
        value: "per-sample", "coupled", "own-gains" (as printed by DDPNOpt), or "robust" (against disturbances).
        rollout: "linear", or "nonlinear" (a second forward pass).
        search: "bounded" (step length and momentum from the Bellman quadratic, no longer than lr), "model" (the same,
            multiplied by lr), "fixed", a ``core.search.Model``; or,
            with ``step(closure)``, "levenberg-marquardt", "backtracking" or, on batches,
            "stochastic-levenberg-marquardt", or an object of ``core.acceptance`` or ``core.unseen``.
        feedback: κ ≥ 0, scales the terminal core; 0 is the base optimizer.
        momentum: of sgd, rmsprop, and of kfac and ekfac at a fixed step. None: 0.9, for rmsprop 0.
        betas: averaging coefficients of adam, and of the companion of kfac and ekfac.
        weight_decay: L2 for sgd and rmsprop, decoupled for the others.
        damping: λ of kfac and ekfac at a fixed step, or where the model search ends up; None: their defaults.
        params: the parameters to train, or parameter groups; None for all of the model's.
        saturation: limit on the weights that the feedback puts on a sample's columns; None for no limit.
        feedback_samples: how many samples of each batch the feedback looks at; None for all, "auto" for 64 with
            kfac and ekfac, 16 with the diagonals, and all where the value is not per sample.
        feedback_every: the period of the feedback in steps; the first ones have it, and those of statistics. Between,
            all layers take open-loop steps, as the last search allows. "auto": so that the feedback looks at one in
            16 of all samples under a cross-entropy; 1 with games, and values that are not per sample.
        curvature_samples: with value="coupled", how many samples of each batch, the first ones, the curvature is made
            of, each standing for as many as it takes; the gradient is that of all. None for all.
        batch_dim: the dimension of the model's inputs that holds the batch.
        seed: for sampled labels and alignments; they draw nothing from the global generators.
        game: of layers that share a stage (residual and inception blocks): "off", "feedback-nash", "cooperative",
            or an object of ``ocnopt.game.kinds``.
        alignment: at which stage of its block a shortcut sits: "bandit", "first", "last", or its number from 0 on.
        blocks: those of ``ocnopt.game.find_stages``, or your own; None to look for them.
        memory_budget: bytes that may stay between steps, or "1.5x" of what AdamW keeps, see ``memory_plan``. None: any.
        compile: True to run the pure functions of a step by ``torch.compile``, or a ``core.compiling.Compiled``.

    Raises:
        TypeError, ValueError: with a sentence, for arguments that make no sense.
    """

    OPTIONS = (
        *("model", "curvature", "search", "value", "terminal", "rollout_kind"),
        *("feedback", "saturation", "feedback_samples", "feedback_every", "batch_dim", "seed"),
        *("game_kind", "alignment", "blocks", "memory_budget", "compiled"),
    )

    def __init__(
        self,
        model: nn.Module,
        lr: float | None = None,
        curvature: str | Curvature = "ekfac",
        terminal: str | Terminal = "auto",
        value: str | Value = "per-sample",
        rollout: str = "linear",
        search: str | Search | None = "bounded",
        feedback: float = 1.0,
        *,
        momentum: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        damping: float | None = None,
        params: Params | None = None,
        saturation: float | None = 0.5,
        feedback_samples: int | str | None = "auto",
        feedback_every: int | str = "auto",
        curvature_samples: int | None = None,
        batch_dim: int = 0,
        seed: int = 0,
        game: str | Kind = "off",
        alignment: str | int = "bandit",
        blocks: Iterable[Block] | None = None,
        memory_budget: int | str | None = None,
        compile: bool | Compiled = False,
    ) -> None:
        require_trainable(model)
        require_whole(model.named_parameters())
        self.model = model
        require_limits(feedback, saturation, feedback_every)
        parts = resolved(curvature, search, value, terminal, rollout, damping)
        self.curvature, self.search, self.value, self.terminal, self.rollout_kind = parts
        self.feedback, self.feedback_every, self.saturation = feedback, feedback_every, saturation
        self.feedback_samples = samples_of(feedback_samples, curvature_samples, self.curvature, self.value)
        self.batch_dim, self.seed = batch_dim, seed
        self.game_kind, self.alignment = game_of(game, alignment, self.curvature, self.value), alignment
        self.blocks = None if blocks is None else tuple(blocks)
        self.memory_budget, self.compiled = memory_budget, compiled_of(compile)
        rate = rate_of(self.search, self.curvature) if lr is None else lr
        defaults = {"lr": rate, "weight_decay": weight_decay, "period": 1}
        defaults.update(group_defaults(self.curvature, momentum, betas))
        super().__init__(list(model.parameters()) if params is None else params, defaults)
        self.attach()
        self.keep_within_budget()

    # the model

    def attach(self) -> None:
        """Find the seats of all parameters and hook the model."""
        self.seats = seats_of(self.model, set(self.groups()))
        slots = {seat.module: slot for seat in self.seats if (slot := seat.slot(self.batch_dim)) is not None}
        self.tally: Tally = getattr(self, "tally", None) or Tally()
        self.capture = Capture(self.model, slots, self.batch_dim)
        self.capture.on_root, self.capture.void = self.draw, self.without_gradients
        self.capture.on_hidden, self.capture.tally = watch, self.tally
        self.capture.handles += listen(self.model, self.capture)
        if hasattr(self.value, "tally"):
            self.value.tally = self.tally
        self.rollout = self.rollout_kind(self.capture, self.tally)
        forget_compiled()
        self.report = Report(self.seats)
        self.game = game_on(self.model, self.game_kind, self.alignment, self.blocks, self.seed, self.tally)
        if self.game is not None:
            self.blocks = self.game.alignments.blocks
        self.recall_game()
        self.last_step = getattr(self, "last_step", None)
        self.plan()

    # the loop

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step. A gradient or a loss of the closure that is not finite skips it, with one warning.

        closure: does zero_grad, forward and backward and returns the loss, which is returned.
        Raises ValueError without one, or for one that is not deterministic, where the search measures its steps.
        """
        loss, again = None, again_of(self.search, closure, self.capture, self.param_groups)
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        try:
            with self.watch.timing(), compiling(self.compiled):
                self.advance(loss, again)
            self.look()
        finally:
            self.forget()
            self.plan()
        return loss

    def backward(self, loss: Tensor, output: Tensor) -> None:
        """loss.backward(), with the extra backward passes that a terminal factor of rank above one takes.

        loss: one number.  output: (B, ...), what the loss was computed from, still attached to its graph.
        Raises ValueError when either is not so.
        """
        if self.capture.mode is Mode.OFF:
            return try_out(self.capture, output)
        require_attached(loss, output)
        if self.uses_curvature():
            require_path(self.capture, loss, output)
        if self.without_gradients():
            self.capture.drop()
        if self.uses_curvature() and bool(loss.isfinite()):  # in this order: a look waits for the device
            with self.capture.during(Mode.OFF):
                factor = self.terminal.factor(loss, output, self.generator())
            send_columns(self.capture, factor, output, self.targets())
            if getattr(self.search, "acceleration", 0.0):
                keep_outputs(self.capture, factor, loss, output)
            if factor.root is not None:
                self.draw_signs(factor.root, output)
        heard = self.capture.heard
        self.capture.heard = loss.detach() if heard is None else heard + loss.detach()
        loss.backward()

    def advance(self, loss: Any, again: Again | None) -> None:
        """One step from the gradients at hand and the trajectory that was captured."""
        groups, ranks = self.groups(), self.capture.ranks
        require_spreadable(ranks, self.value, self.rollout_kind, self.search)
        gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        require_unsharded(self.model, gradients)
        self.last_step = idle(again, loss, "an error has ended the step")
        if not gradients:
            self.last_step = idle(again, loss, "no parameter has a gradient")
            return
        if not all(ranks.all([finite(loss, gradients, bound := bound_of(gradients))])):
            self.last_step = idle(again, loss, "the loss or a gradient is not finite")
            self.skip()
            return
        self.unscale(scale_of_caller())
        blank = not self.state and not self.capture.calls and asks_for_layout(self.param_groups, gradients)
        number = 0 if blank else self.clock.get("step", 0) + 1
        turns = [turn_of(seat, names, groups, number) for seat in self.seats if (names := seat.active())]
        seat_calls(turns, self.capture)
        agree(turns, ranks)
        if self.uses_curvature():
            require_core(turns, self.capture, self.terminal)
        for turn in turns:
            turn.states, turn.bound = [self.state[p] for p in turn.params], bound
        if self.resting:
            seat_again(turns)
        if blank:
            lay_out(turns, method_of(self.curvature, self.search, self.value, self.clock), self.clock)
            return
        if self.capture.calls:
            warn_if_unseen(ranks)
        if again is not None:
            again.require_comparable(loss, bool(self.clock.get("tries")))
        self.clock["step"] = number
        self.gauge()
        solver, moving = self.solver([turn for turn in turns if turn.rests]), [t for t in turns if not t.rests]
        shown, self.last_step = taken(solver, moving, self.capture, self.clock, again, loss)
        if self.game is not None:
            own = next((x for x in (loss, self.capture.heard) if x is not None), None)
            self.game.alignments.observe(shown if own is None else ranks.numbers(float(own))[0] / ranks.size)
        self.report.update(moving, self.resting)

    # how it is solved

    def solver(self, resting: Sequence[Turn]) -> Solver:
        method = method_of(self.paced(self.clock.get("step", 0)), self.search, self.value, self.clock)
        axes = method, self.value, self.terminal, self.rollout
        limits = self.feedback, self.feedback_samples, limit_of(method, self.saturation)
        shared = self.tally, self.game, self.capture.ranks
        return Solver(*axes, *limits, *shared, resting, self.watch, not self.resting)
