"""Models written for torchdiffeq's ``odeint_adjoint``, unmodified: their layers are heard inside its backward solve.

Its forward solve runs without gradients. On the way back it evaluates the vector field anew and pulls −q through every
evaluation (Chen et al., arXiv 1806.07366). The backward node of a solve tells when that begins and ends; torchdiffeq's
own callbacks tell which steps are accepted; the knots decide what each evaluation counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from ocnopt.core.arrivals import Mode
from ocnopt.core.backward import Evaluation, hold, pass_over, passing
from ocnopt.core.capture import Capture

from .knots import STAGES, Knots, Rule, rule_of
from .solver import ADAPTIVE

Callback = Callable[..., Any]

NODE = "OdeintAdjointMethodBackward"
EVENTS = (
    "It was solved with an event function, whose time the adjoint of torchdiffeq does not differentiate; "
    "its gradient serves without feedback."
)
UNWEIGHED = (
    "It was solved backwards with the method {!r}, whose evaluations cannot be weighed; choose one of {} as "
    "adjoint_method, or its gradient serves without feedback."
)
COLUMNS = (
    "A terminal factor of rank above one needs one backward solve for all columns: use ocnopt.ode.NeuralODE, or "
    "terminal='true-vs-rest' or 'gradient'."
)


def watch(capture: Capture, outputs: Sequence[Tensor]) -> None:
    """Listen to all solves that the outputs of a model were computed with."""
    for node in nodes_of(outputs):
        notes: dict[str, Any] = node.metadata  # type: ignore[assignment]
        if node.name() == NODE and "ocnopt" not in notes:
            notes["ocnopt"] = True  # by whichever capture: an evaluation holds the calls of all
            solve = Solve(capture)
            node.register_prehook(solve.begin)
            node.register_hook(solve.end)


def nodes_of(outputs: Sequence[Tensor]) -> Iterator[Node]:
    """All nodes of the graph behind the outputs."""
    waiting = [x.grad_fn for x in outputs if x.grad_fn is not None]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        yield node
        new = {after for after, _ in node.next_functions if after is not None} - seen
        seen |= new
        waiting.extend(new)


class Solve:
    """One solve on its way back. It must not hold the node of the graph, which holds it."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.rule: Rule | None = None
        self.now: Evaluation | None = None
        self.listens = False

    # hooks of the node

    def begin(self, gradients: tuple[Tensor, ...]) -> None:
        """The backward solve begins."""
        node: Any = torch._C._current_autograd_node()
        method = node.adjoint_method or "dopri5"
        times = node.saved_tensors[0].tolist()
        self.now, self.knots = None, Knots(times)
        self.rule = rule_of(method, self.knots, times)
        if reason := self.obstacle(node, method):
            self.rule = None
            self.refuse(node.func, reason)
        self.listen(node.func, method)

    def end(self, after: tuple[Tensor, ...], before: tuple[Tensor, ...]) -> None:
        """The backward solve is over. What was pulled back was −q."""
        self.close()
        hold(None)
        if self.rule is not None:
            self.rule.ended()
            self.knots.deposit(sign=-1.0)
        self.rule = None

    # what may be heard

    def obstacle(self, node: Any, method: str) -> str:
        """Why the calls of this solve cannot take part; empty if they can."""
        if node.event_mode:
            return EVENTS
        if self.rule is None:
            return UNWEIGHED.format(method, ", ".join((*ADAPTIVE, *STAGES)))
        column = passing()
        return COLUMNS if column is not None and column.mode is Mode.COLUMN else ""

    def refuse(self, field: nn.Module, reason: str) -> None:
        """Say in ``coverage`` and by a warning why the layers of the field go without feedback."""
        warnings.warn(f"OCNOpt cannot follow a solve of odeint_adjoint. {reason}", stacklevel=2)
        for module in field.modules():
            if module in self.capture.slots:
                self.capture.refusals[module] = reason

    def listen(self, field: nn.Module, method: str) -> None:
        """Hook torchdiffeq's own wrapper around the field, made for this solve; once for all passes through it."""
        if self.listens or self.rule is None:
            return
        self.listens = True
        field.register_forward_pre_hook(self.evaluate)
        events: dict[str, Callback] = {"callback_step_adjoint": self.step}
        if method in ADAPTIVE:
            events["callback_accept_step_adjoint"] = self.accept
        for name, event in events.items():
            setattr(field, name, both(getattr(field, name, None), event))

    # what torchdiffeq does in between

    def evaluate(self, field: nn.Module, args: tuple[Any, ...]) -> None:
        """The field is about to be evaluated."""
        self.close()
        if self.rule is None or not self.rule.hears():
            return pass_over()
        self.now = Evaluation()
        hold(self.now)

    def close(self) -> None:
        """Whatever comes now belongs to no earlier evaluation."""
        if self.now is not None and self.now.calls and self.rule is not None:
            self.rule.evaluated(self.now)
        self.now = None

    def step(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
        self.close()
        if self.rule is not None:
            self.rule.begun(float(t0), float(dt))

    def accept(self, t0: Tensor, y0: Any, dt: Tensor) -> None:
        self.close()
        if self.rule is not None:
            self.rule.accepted(float(t0), float(dt))


def both(first: Callback | None, second: Callback) -> Callback:
    """A callback of the user's own is called as well."""

    def callback(*args: Any) -> None:
        if first is not None:
            first(*args)
        second(*args)

    return callback
