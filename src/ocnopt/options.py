"""The façade's options: short names to objects through one table each, and clear sentences for what cannot be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from .core.acceptance import Backtracking, LevenbergMarquardt
from .core.rollout import Linear, Nonlinear
from .core.search import Bounded, Model
from .core.terminal import Auto, Fisher, GaussNewton, Gradient, Terminal, TrueVsRest
from .core.unseen import StochasticLevenbergMarquardt
from .core.value import Coupled, OwnGains, PerSample, Value
from .curvature import TABLE as CURVATURES
from .curvature import Adam, Curvature, Kronecker
from .game.alignment import require_alignment
from .game.disturbance import Robust
from .game.kinds import KINDS, Kind

TERMINALS: dict[str, Callable[[], Terminal]] = {
    "auto": Auto,
    "gradient": Gradient,
    "true-vs-rest": TrueVsRest,
    "gauss-newton": GaussNewton,
    "fisher": Fisher,
}
VALUES: dict[str, Callable[[], Value]] = {
    "per-sample": PerSample,
    "coupled": Coupled,
    "own-gains": OwnGains,
    "robust": Robust,
}
ROLLOUTS: dict[str, type[Linear] | type[Nonlinear]] = {"linear": Linear, "nonlinear": Nonlinear}
Search = Model | LevenbergMarquardt | Backtracking | StochasticLevenbergMarquardt
SEARCHES: dict[str, Callable[[], Search | None]] = {
    "bounded": Bounded,
    "model": Model,
    "fixed": lambda: None,
    "levenberg-marquardt": LevenbergMarquardt,
    "backtracking": Backtracking,
    "stochastic-levenberg-marquardt": StochasticLevenbergMarquardt,
}


def chosen(argument: str, value: Any, table: Mapping[str, Any]) -> Any:
    """The entry of the table that a name stands for.

    Raises ValueError that lists the valid names.
    """
    if not isinstance(value, str) or value not in table:
        raise ValueError(f"{argument}={value!r} is not known; choose one of {', '.join(map(repr, table))}.")
    return table[value]


def made(argument: str, value: Any, table: Mapping[str, Callable[[], Any]]) -> Any:
    """``chosen``, made into an object of its default options; what can stand in for one of those is taken as it is."""
    known = [make() for make in table.values()]
    if value in known or any(stands_in(value, example) for example in known):
        return value
    return chosen(argument, value, table)()


def stands_in(value: Any, example: Any) -> bool:
    """Whether an object has all public attributes of the example's class."""
    names = [] if isinstance(value, type) or example is None else public(type(example))
    return bool(names) and all(hasattr(value, name) for name in names)


def public(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_")]


def curvature_of(value: str | Curvature) -> Curvature:
    return made("curvature", value, CURVATURES)


def require_rate(name: str, value: float | Tensor, *, zero: bool = False) -> None:
    """Raise ValueError unless the value is a finite, positive number (or zero, where that makes sense)."""
    number = float(value)
    if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
        wanted = "and not negative" if zero else "and positive"
        raise ValueError(f"{name}={number} must be finite {wanted}.")


def require_betas(betas: tuple[float, float]) -> None:
    if not isinstance(betas, tuple | list) or len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas={betas} must be two numbers in [0, 1).")


def require_sound(group: Mapping[str, Any]) -> None:
    """Raise ValueError unless the options of a parameter group make sense."""
    require_rate("lr", group["lr"])
    for name in group.keys() & {"momentum", "weight_decay"}:
        require_rate(name, group[name], zero=True)
    if "betas" in group:
        require_betas(group["betas"])
    period = group.get("period", 1)
    if not isinstance(period, int) or period < 1:
        raise ValueError(f"period={period} of a parameter group must be a whole number of steps, 1 or more.")


def group_defaults(curvature: Curvature, momentum: float | None, betas: tuple[float, float]) -> dict[str, Any]:
    """The coefficients that the curvature uses: schedulers cycle β₁ wherever they find betas, else momentum."""
    require_sound({"lr": 1.0, "momentum": momentum or 0.0, "betas": betas})
    used: dict[str, Any] = {}
    if not isinstance(curvature, Adam):
        used["momentum"] = curvature.momentum if momentum is None else momentum
    if isinstance(getattr(curvature, "companion", curvature), Adam):
        used["betas"] = tuple(betas)
    return used


def with_damping(part: Any, damping: float | None) -> Any:
    """The curvature or the search with its damping set, where it has one; of Levenberg-Marquardt that is the first."""
    if damping is None:
        return part
    require_rate("damping", damping)
    name = next((name for name in ("damping", "start") if hasattr(part, name)), None)
    return part if name is None else replace(part, **{name: damping})


def rate_of(search: Search | None, curvature: Curvature) -> float:
    """lr where none is given."""
    return (search or curvature).default_lr


def require_closure(search: Any, groups: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError for a step without a closure, unless every rate is zero and it would move nothing."""
    if any(float(group["lr"]) for group in groups):
        raise ValueError(
            f"search={name_of(search)!r} measures its steps and needs optimizer.step(closure): pass a closure that "
            "does zero_grad, forward and backward and returns the loss, or choose search='bounded'."
        )


def name_of(search: Any) -> str:
    """The search's name at the façade."""
    return next((name for name, make in SEARCHES.items() if isinstance(search, type(make()))), type(search).__name__)


def resolved(
    curvature: Any, search: Any, value: Any, terminal: Any, rollout: Any, damping: float | None
) -> tuple[Any, ...]:
    """The arguments of ``OCNOpt`` made into objects, in this order."""
    kind, how = made("value", value, VALUES), with_damping(made("search", search, SEARCHES), damping)
    if isinstance(how, StochasticLevenbergMarquardt) and not isinstance(kind, Coupled):
        raise ValueError(
            f"search={name_of(how)!r} is for value='coupled'; with other values search='bounded' is for batches."
        )
    return (
        with_damping(curvature_of(curvature), damping),
        how,
        kind,
        fitting(made("terminal", terminal, TERMINALS), kind),
        chosen("rollout", rollout, ROLLOUTS),
    )


def samples_of(samples: int | str | None, curved: int | None, curvature: Curvature, value: Value) -> int | None:
    """How many samples the feedback looks at: "auto" is the curvature's number; where they couple, ``curved``."""
    if curved is not None:
        require_coupled(samples, curved, value)
        return curved
    if isinstance(samples, str):
        if samples != "auto":
            raise ValueError(f"feedback_samples={samples!r} is not known; give a number, None for all, or 'auto'.")
        return curvature.feedback_samples if value.by_sample else None
    if samples is not None and samples < 1:
        raise ValueError(f"feedback_samples={samples} must be at least 1, or None for the whole batch.")
    return samples


def require_coupled(samples: int | str | None, curved: int, value: Value) -> None:
    """Raise ValueError unless so many samples can be those of a coupled curvature."""
    if not isinstance(value, Coupled):
        raise ValueError(
            f"curvature_samples={curved} is for value='coupled', whose curvature is that of all samples together; "
            "with other values pass feedback_samples."
        )
    if samples != "auto":
        raise ValueError(
            f"curvature_samples={curved} and feedback_samples={samples} are the same thing with value='coupled'; "
            "leave feedback_samples out."
        )
    if isinstance(curved, bool) or not isinstance(curved, int) or curved < 1:
        raise ValueError(f"curvature_samples={curved!r} must be a whole number, at least 1, or None for all samples.")


def game_of(game: Any, alignment: Any, curvature: Curvature, value: Value) -> Kind | None:
    """The kind of game. Raises ValueError where the other axes leave nothing to play for."""
    kind = made("game", game, KINDS)
    require_alignment(alignment)
    if kind is not None and isinstance(value, Coupled):
        raise ValueError(
            "value='coupled' already solves for all layers together, so a game would change nothing; "
            "leave game='off', or choose value='per-sample'."
        )
    if kind is not None and kind.cooperates and not (isinstance(curvature, Kronecker) and value.by_sample):
        raise ValueError(
            "game='cooperative' needs the cross blocks that curvature='kfac' or 'ekfac' gathers, and "
            "value='per-sample'; choose those, or game='feedback-nash'."
        )
    return kind


def require_limits(feedback: float, saturation: float | None, every: int | str) -> None:
    """Raise ValueError unless the limits of the feedback and its period make sense."""
    if every != "auto" and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise ValueError(f"feedback_every={every!r} must be a number of steps, at least 1, or 'auto'.")
    require_rate("feedback", feedback, zero=True)
    if saturation is not None:
        require_rate("saturation", saturation)


def fitting(terminal: Terminal, value: Value) -> Terminal:
    """terminal="auto" under a coupled value may take exact Gauss-Newton."""
    return replace(terminal, many=32) if isinstance(terminal, Auto) and isinstance(value, Coupled) else terminal


def require_trainable(model: Any) -> None:
    """Raise unless the model is a module with something to train."""
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"OCNOpt takes the model itself (an nn.Module), not {type(model).__name__}: it needs the layers, "
            "not only their parameters. Write OCNOpt(model), with params= for a part of it or for groups."
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError(f"{type(model).__name__} has no trainable parameters: none has requires_grad=True.")
