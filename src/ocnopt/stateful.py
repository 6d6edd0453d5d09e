"""What torch asks of an optimizer: parameter groups, and a state that can be saved, loaded, copied and pickled."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .core.capture import Capture
from .game.play import Game
from .layout import drop_gaps
from .options import require_sound
from .versions import migrated, placed, require_parts, require_places, stamped, unstamped


class Stateful(torch.optim.Optimizer):
    """A torch optimizer that hooks a model.

    A subclass names in ``OPTIONS`` the attributes that make up a copy of itself, and finds its way into
    the model by ``attach``.
    """

    OPTIONS: ClassVar[tuple[str, ...]] = ("model",)
    model: nn.Module
    capture: Capture
    game: Game | None

    def attach(self) -> None:
        """Hook the model for the parameters there are now."""
        raise NotImplementedError

    def remove_hooks(self) -> None:
        raise NotImplementedError

    def plan(self) -> None:
        """Tell the capture what the coming step wants."""
        raise NotImplementedError

    @property
    def clock(self) -> dict[str, Any]:
        """What the step counter and the search remember: plain numbers that travel in the first parameter group."""
        return self.param_groups[0].setdefault("clock", {})

    def groups(self) -> dict[int, dict[str, Any]]:
        """The group of every parameter, by its id."""
        return {id(p): group for group in self.param_groups for p in group["params"]}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; parameters added later get their hooks at once."""
        if isinstance(param_group, dict):
            require_sound({**self.defaults, **param_group})
        super().add_param_group(param_group)
        foreign = len(set(self.groups()) - {id(p) for p in self.model.parameters()})
        if foreign:
            del self.param_groups[-1]
            raise ValueError(
                f"{foreign} of the parameters do not belong to the model; pass the module that holds them."
            )
        self.clock  # noqa: B018, a state_dict before the first step has one already
        if hasattr(self, "capture"):
            self.attach_again()

    def attach_again(self) -> None:
        """Hook the model for the parameters there are now, in the mode it was in."""
        enabled, hooked = self.capture.enabled, bool(self.capture.handles)
        self.keep_game()
        self.remove_hooks()
        self.attach()
        self.capture.enabled = enabled
        if not hooked:
            self.remove_hooks()

    def keep_game(self) -> None:
        """Write down what the game has learned, where it is saved."""
        if self.game is not None:
            self.clock["game"] = self.game.state_dict()

    def recall_game(self) -> None:
        """Go on with what the game had learned, where there is anything."""
        if self.game is not None and "game" in self.clock:
            self.game.load_state_dict(self.clock["game"])

    def state_dict(self) -> dict[str, Any]:
        """As in torch, with a version."""
        self.keep_game()
        return stamped(super().state_dict(), self.parts())

    def parts(self) -> dict[str, str]:
        """The choices that decide what the state holds, by name."""
        raise NotImplementedError

    def require_mine(self, state_dict: dict[str, Any], stamp: dict[str, Any]) -> None:
        """Raise ValueError, before anything has changed, with the first difference of a state that is not for this."""
        require_parts(migrated(stamp, self.parts()), self.parts())
        names: dict[Tensor, str] = {p: name for name, p in self.model.named_parameters()}
        require_places(state_dict, self.param_groups, names)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, but factors keep the dtype they were saved with: float32 under bfloat16 parameters.

        Raises ValueError, with the first difference, for a state of another model or other options.
        """
        state_dict, stamp = unstamped(state_dict)
        self.require_mine(state_dict, stamp)
        super().load_state_dict(state_dict)
        saved = [key for group in state_dict["param_groups"] for key in group["params"]]
        mine = [p for group in self.param_groups for p in group["params"]]
        for key, p in zip(saved, mine, strict=True):
            for name, value in state_dict["state"].get(key, {}).items():
                if isinstance(value, Tensor | dict):
                    self.state[p][name] = placed(value, p, name)
        drop_gaps(self.state)
        self.recall_game()
        self.plan()

    def __getstate__(self) -> dict[str, Any]:
        """The options and what torch keeps: hooks, and the ``step`` that a scheduler has patched, stay behind."""
        self.keep_game()
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self.OPTIONS}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if not hasattr(self, "capture"):
            self.attach()
