"""OCNOpt: a torch.optim.Optimizer that trains by optimal control. It gathers, calls and stores; no mathematics."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge

from .core.bellman import Saturation
from .core.capture import Capture, Mode
from .core.search import Model
from .core.terminal import Auto, Terminal
from .core.trajectory import Sweep
from .core.value import Coupled, OwnGains, Value
from .curvature import Curvature, Kronecker
from .gathering import Turn, seat_calls, turn_of
from .linalg.symmetric import Tally
from .options import ROLLOUTS, SEARCHES, TERMINALS, VALUES, chosen, curvature_of, made
from .options import require_betas, require_rate, require_trainable
from .reporting import Report, Row
from .seats import seats_of, shared
from .solving import Solver
from .updates import Fixed, Searched

Params = Iterable[Tensor] | Iterable[dict[str, Any]]


class OCNOpt(torch.optim.Optimizer):
    """Optimal-control training of a PyTorch module (Liu, Chen, Theodorou, arXiv 2510.14168).

    Layers are time steps and parameters controls; each layer's update is a feedback policy
    δθ = k + K δx that reacts to how the updates of the other layers have moved its input. The loop is
    that of AdamW: ``zero_grad(); loss.backward(); step()``.

    Args:
        model: the module to train. The optimizer hooks its layers; ``remove_hooks`` undoes that.
        lr: the step with search="fixed" (None: 1e-2 for sgd, 1e-3 for rmsprop and adam, 0.05 for kfac and
            ekfac); a multiplier of the model's own step otherwise (None: ``MODEL_LR``).
        curvature: the metric: "sgd", "rmsprop", "adam", "kfac", "ekfac", or an object of ``ocnopt.curvature``.
        terminal: the factor of the loss's curvature: "auto", "gradient", "true-vs-rest", "gauss-newton",
            "fisher", or an object of ``ocnopt.core.terminal``.
        value: "per-sample", "coupled", or "own-gains" (the recursion as printed by DDPNOpt).
        rollout: "linear", or "nonlinear" (a second forward pass).
        search: "model" (step length and momentum from the Bellman quadratic), "fixed", or a ``core.search.Model``.
        feedback: κ ≥ 0, scales the terminal core; 0 is the base optimizer.
        momentum: of sgd, rmsprop, and of kfac and ekfac at a fixed step. None: 0.9, for rmsprop 0.
        betas: averaging coefficients of adam, and of the companion of kfac and ekfac.
        weight_decay: L2 for sgd and rmsprop, decoupled for the others.
        damping: λ of kfac and ekfac at a fixed step, or where the model search ends up; None: their defaults.
        params: the parameters to train, or parameter groups; None for all of the model's.
        saturation: limit on the weights that the feedback puts on a sample's columns; None for no limit.
        feedback_samples: how many samples of each batch the feedback looks at; None for all.
        batch_dim: the dimension of the model's inputs that holds the batch.
        seed: for sampled labels; they draw nothing from the global generators.

    Raises:
        TypeError, ValueError: with a sentence, for arguments that make no sense.
    """

    MODEL_LR = 0.5

    def __init__(
        self,
        model: nn.Module,
        lr: float | None = None,
        curvature: str | Curvature = "ekfac",
        terminal: str | Terminal = "auto",
        value: str | Value = "per-sample",
        rollout: str = "linear",
        search: str | Model | None = "model",
        feedback: float = 1.0,
        *,
        momentum: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        damping: float | None = None,
        params: Params | None = None,
        saturation: float | None = 1.0,
        feedback_samples: int | None = None,
        batch_dim: int = 0,
        seed: int = 0,
    ) -> None:
        require_trainable(model)
        self.curvature = with_damping(curvature_of(curvature), damping)
        self.model = model
        self.search = with_damping(made("search", search, SEARCHES), damping)
        self.value = made("value", value, VALUES)
        self.terminal = fitting(made("terminal", terminal, TERMINALS), self.value)
        self.rollout = chosen("rollout", rollout, ROLLOUTS)
        self.feedback, self.saturation, self.feedback_samples = feedback, saturation, feedback_samples
        self.batch_dim, self.seed = batch_dim, seed
        default_lr = self.curvature.default_lr if self.search is None else self.MODEL_LR
        defaults = {
            "lr": default_lr if lr is None else lr,
            "momentum": self.curvature.momentum if momentum is None else momentum,
            "betas": tuple(betas),
            "weight_decay": weight_decay,
        }
        self.require_sound(defaults)
        super().__init__(list(model.parameters()) if params is None else params, defaults)
        self.attach()

    def require_sound(self, defaults: dict[str, Any]) -> None:
        require_rate("lr", defaults["lr"])
        require_rate("feedback", self.feedback, zero=True)
        require_rate("weight_decay", defaults["weight_decay"], zero=True)
        require_rate("momentum", defaults["momentum"], zero=True)
        require_betas(defaults["betas"])
        if self.saturation is not None:
            require_rate("saturation", self.saturation)
        if self.feedback_samples is not None and self.feedback_samples < 1:
            raise ValueError(f"feedback_samples={self.feedback_samples} must be at least 1, or None for the whole batch.")

    # the model

    def attach(self) -> None:
        """Find the seats of all parameters and hook the model."""
        held = {id(p) for group in self.param_groups for p in group["params"]}
        foreign = len(held - {id(p) for p in self.model.parameters()})
        if foreign:
            raise ValueError(f"{foreign} of the parameters do not belong to the model; pass the module that holds them.")
        self.seats = seats_of(self.model, held)
        self.tied = shared(self.seats)
        slots = {seat.module: slot for seat in self.seats if (slot := seat.slot(self.batch_dim)) is not None}
        self.capture = Capture(self.model, slots, self.batch_dim)
        self.capture.on_root = self.draw
        self.tally = Tally()
        self.report = Report(self.seats)
        self.warned = False
        self.plan()

    def remove_hooks(self) -> None:
        """Take all hooks off the model. Steps taken afterwards are those of the base optimizer."""
        self.capture.remove()

    def train(self) -> None:
        """Go on capturing."""
        self.capture.enabled = True

    def eval(self) -> None:
        """Stop capturing, for forward passes in training mode that no step will use."""
        self.capture.enabled = False
        self.capture.clear()

    # the loop

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """Take one step. A gradient or a loss of the closure that is not finite skips it, with one warning.

        closure: does zero_grad, forward and backward and returns the loss, which is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        try:
            self.advance(loss)
        finally:
            self.capture.clear()
            self.plan()
        return loss

    def backward(self, loss: Tensor, output: Tensor) -> None:
        """loss.backward(), with the extra backward passes that a terminal factor of rank above one takes.

        loss: one number.  output: (B, ...), what the loss was computed from, still attached to its graph.
        Raises ValueError when either is not so.
        """
        if loss.numel() != 1:
            raise ValueError(f"The loss has shape {tuple(loss.shape)}; backward needs one number, like loss.mean().")
        if not output.requires_grad:
            raise ValueError("The output has no graph: pass the tensor the loss was computed from, not a detached copy.")
        if bool(loss.isfinite()) and self.uses_curvature():
            self.send_columns(loss, output)
        loss.backward()

    def advance(self, loss: Any) -> None:
        """One step from the gradients at hand and the trajectory that was captured."""
        turns = [turn_of(seat, names, self.state, self.groups(), self.tied) for seat in self.seats if (names := seat.active())]
        if not turns:
            return
        if not finite(loss, turns):
            self.skip()
            return
        self.clock["step"] = self.clock.get("step", 0) + 1
        seat_calls(turns, self.capture)
        with torch.autocast(turns[0].params[0].device.type, enabled=False):
            self.solver().step(turns, self.capture, self.clock)
        self.report.update(turns)

    def skip(self) -> None:
        self.tally["steps skipped"] += 1
        if not self.warned:
            warnings.warn(
                "OCNOpt skipped a step: the loss or a gradient is not finite. The parameters and all running averages are "
                "as before; diagnostics()['steps skipped'] counts such steps.",
                stacklevel=5,
            )
            self.warned = True

    # what the coming step wants

    def uses_curvature(self) -> bool:
        return self.feedback > 0 or self.search is not None

    def plan(self) -> None:
        """Tell the capture how much of the coming trajectory will be used."""
        self.capture.keep = self.feedback_samples if self.uses_curvature() else 0
        self.capture.rows = self.curvature.rows if self.statistics_due() else 0  # type: ignore[union-attr]

    def statistics_due(self) -> bool:
        return isinstance(self.curvature, Kronecker) and self.curvature.statistics_due(self.clock.get("step", 0) + 1)

    def draw(self, sweep: Sweep, output: GradientEdge) -> None:
        """Send cotangents at labels drawn from the model down the graph, when statistics are due."""
        wanted = self.statistics_due() and self.curvature.fisher == "sampled"  # type: ignore[union-attr]
        if wanted and sweep.seen is not None and sweep.rank == 0:
            u = sweep.seen.sample(self.generator())
            with self.capture.during(Mode.DRAW):
                torch.autograd.grad(output, self.smallest(), u, retain_graph=True, allow_unused=True)

    def send_columns(self, loss: Tensor, output: Tensor) -> None:
        """Pull the columns of the terminal factor back through the graph, before the gradient itself."""
        with self.capture.during(Mode.OFF):
            factor = self.terminal.factor(loss, output, self.generator())
        sweep = self.capture.sweeps[self.capture.sweep]
        sweep.core, sweep.coordinates, sweep.rank = factor.core, factor.coordinates, len(factor.columns)
        for j, column in enumerate(factor.columns):
            self.capture.column = j
            with self.capture.during(Mode.COLUMN):
                torch.autograd.grad(output, self.smallest(), column, retain_graph=True, allow_unused=True)

    def smallest(self) -> list[Tensor]:
        """One small parameter of every captured module: asking for them alone sends a cotangent past all players."""
        held = ((seat, [p for p in seat.tensors(seat.names) if p.requires_grad]) for seat in self.seats)
        return [min(params, key=Tensor.numel) for seat, params in held if params and seat.module in self.capture.slots]

    def generator(self) -> torch.Generator:
        """A generator for this step alone, so that nothing needs to be saved to repeat it."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + self.clock.get("step", 0))

    def solver(self) -> Solver:
        method = Fixed(self.curvature) if self.search is None else Searched(self.curvature, self.search)
        return Solver(
            method, self.value, self.terminal, self.rollout, self.feedback, self.feedback_samples, self.saturation, self.tally
        )

    # state

    @property
    def clock(self) -> dict[str, Any]:
        """What the step counter and the search remember: plain numbers that travel in the first parameter group."""
        return self.param_groups[0].setdefault("clock", {})

    def groups(self) -> dict[int, dict[str, Any]]:
        return {id(p): group for group in self.param_groups for p in group["params"]}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; parameters added later get their hooks at once."""
        super().add_param_group(param_group)
        if hasattr(self, "capture"):
            self.capture.remove()
            self.attach()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, but every tensor keeps the dtype it was saved with: factors stay float32 under bfloat16."""
        super().load_state_dict(state_dict)
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        mine = [p for group in self.param_groups for p in group["params"]]
        for key, p in zip(saved, mine, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if isinstance(value, Tensor):
                    self.state[p][name] = value.detach().to(p.device, copy=True)
        self.plan()

    def __getstate__(self) -> dict[str, Any]:
        left_out = ("capture", "seats", "tied", "report", "tally", "warned")
        return {name: value for name, value in self.__dict__.items() if name not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if not hasattr(self, "capture"):
            self.attach()

    # seeing inside

    def coverage(self) -> list[Row]:
        """Every parameter once: its player, its metric, whether it takes part in the feedback, and why not."""
        return self.report.rows()

    def diagnostics(self) -> dict[str, float]:
        """Counts of everything that was skipped, held or fell back, and the state of the search, as a flat dict."""
        numbers = {name: value for name, value in self.clock.items() if isinstance(value, int | float)}
        counts = {"steps skipped": 0, **self.tally}
        return {**numbers, **counts, **self.report.numbers()}


def with_damping(part: Any, damping: float | None) -> Any:
    """The curvature or the search with its damping set, where it has one."""
    from dataclasses import replace

    if damping is None or not hasattr(part, "damping"):
        return part
    require_rate("damping", damping)
    return replace(part, damping=damping)


def fitting(terminal: Terminal, value: Value) -> Terminal:
    """terminal="auto" under a coupled value may take exact Gauss-Newton."""
    return Auto(terminal.beta, many=32) if isinstance(terminal, Auto) and isinstance(value, Coupled) else terminal


def finite(loss: Any, turns: Sequence[Turn]) -> bool:
    """Whether the loss, if known, and all gradients are finite."""
    if loss is not None and not bool(torch.as_tensor(loss).isfinite().all()):
        return False
    norms = torch._foreach_norm([g for turn in turns for g in turn.gradients])
    return bool(torch.stack([norm.to(norms[0].device) for norm in norms]).sum().isfinite())
