"""How an ODE is solved: which solver, how exactly, at which nodes; and the one error of a solve that does not end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .quadrature import RULES

State = tuple[Tensor, ...]
"""The state of an ODE: one tensor or several, each (B, ...)."""

ADAPTIVE = {"dopri5": 6, "dopri8": 13, "bosh3": 3, "fehlberg2": 2, "adaptive_heun": 1}
"""Methods that choose their steps, and evaluations in one; the last of an accepted step lies at its end."""
FIXED = ("euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", "fixed_adams")


class SolveError(RuntimeError):
    """A solve that cannot go on: the step has shrunk to nothing, there are too many, or the state is not finite."""


@dataclass(frozen=True)
class Solver:
    """Options of a solve.

    method: a solver of torchdiffeq that works in torch.  rtol, atol: what a step of an adaptive one may err by.
    options: those of torchdiffeq, such as step_size or max_num_steps.
    nodes: how many quadrature nodes the curvature of an ODE is gathered at, on the way back.
    rule: "gauss-legendre" (exact for polynomials of degree 2·nodes − 1) or "trapezoid".

    Raises ValueError for a method or a rule that is not known, and for numbers that make no sense.
    """

    method: str = "dopri5"
    rtol: float = 1e-3
    atol: float = 1e-3
    options: Mapping[str, Any] = field(default_factory=dict)
    nodes: int = 4
    rule: str = "gauss-legendre"

    def __post_init__(self) -> None:
        require_method(self.method)
        for name in ("rtol", "atol"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"Solver({name}={getattr(self, name)}) must be finite and positive.")
        if self.rule not in RULES:
            raise ValueError(f"Solver(rule={self.rule!r}) is not known; choose one of {', '.join(map(repr, RULES))}.")
        if self.nodes < RULES[self.rule].fewest:
            raise ValueError(
                f"Solver(nodes={self.nodes}) is too few for rule={self.rule!r}; take {RULES[self.rule].fewest} or more."
            )

    def settings(self, **options: Any) -> dict[str, Any]:
        """Keyword arguments of ``torchdiffeq.odeint``, with these options on top."""
        own = {name: value for name, value in self.options.items() if name != "norm"}
        return {"rtol": self.rtol, "atol": self.atol, "method": self.method, "options": {**own, **options}}

    def norm(self, single: bool) -> dict[str, Any]:
        """The user's norm of a forward solve, which sees a state as the user does; none if there is none."""
        if "norm" not in self.options:
            return {}
        norm = self.options["norm"]
        return {"norm": (lambda y: norm(y[0])) if single else norm}


def require_method(method: str) -> None:
    if method == "scipy_solver":
        raise ValueError(
            "solver='scipy_solver' leaves torch and has no gradient; choose one that stays in it, like 'dopri5'."
        )
    if method not in (*ADAPTIVE, *FIXED):
        known = ", ".join(map(repr, (*ADAPTIVE, *FIXED)))
        raise ValueError(f"solver={method!r} is not known; choose one of {known}.")


def torchdiffeq() -> Any:
    """The package that solves. ImportError, with what to install, where it is missing."""
    try:
        import torchdiffeq as package
    except ImportError as error:
        raise ImportError(
            'Neural ODEs and flows need torchdiffeq, which is not installed: pip install "ocnopt[ode]"'
        ) from error
    return package


class Watch:
    """A right-hand side whose last time and state are remembered, for the message of an error."""

    def __init__(self, f: Callable[[Tensor, State], State], width: int) -> None:
        self.f, self.width = f, width
        self.t: Any = math.nan
        self.x: State = ()

    def __call__(self, t: Tensor, y: State) -> State:
        self.t, self.x = t.detach(), y[: self.width]
        return self.f(t, y)

    def where(self) -> str:
        norms = [float(x.detach().double().norm()) for x in self.x]
        return f"at t = {float(self.t):.6g}, where the norm of the state is {math.hypot(*norms):.6g}"


def solve(f: Callable[[Tensor, State], State], y: State, times: Sequence[float], settings: Any, width: int) -> State:
    """The states at all times, each (len(times), *shape); the first ``width`` tensors of y are what x is.

    Raises SolveError where the solve cannot go on.
    """
    watch = Watch(f, width)
    t = torch.tensor(times, dtype=torch.float64, device=y[0].device)
    try:
        states = torchdiffeq().odeint(watch, y, t, **settings)
    except AssertionError as error:  # which is how torchdiffeq ends a solve
        reason = str(error).split(":")[0] or "an assertion of the solver"
        raise SolveError(failure(reason, watch)) from error
    if not all(bool(x[-1].detach().isfinite().all()) for x in states):
        watch.x = tuple(x[-1] for x in states[:width])
        raise SolveError(failure("the state is not finite", watch))
    return states


def failure(reason: str, watch: Watch) -> str:
    return (
        f"The ODE could not be solved ({reason}) {watch.where()}: the field is too steep there; "
        "lower the learning rate, penalise the field, or loosen rtol and atol."
    )
