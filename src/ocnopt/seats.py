"""Seats: where in the model the parameters of an optimizer sit, and which player speaks for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from torch import Tensor, nn

from .core.capture import Slot
from .players import Refusal, find
from .players.base import MatrixModulePlayer, ModulePlayer

TIED = "Other modules share its {}, whose products therefore belong to no single stage."

ROOT = "(model)"


@dataclass(eq=False)
class Seat:
    """A module with the parameters it owns directly.

    path: its name in the model.  names: of all its parameters that the optimizer holds.
    tied: those of them that other modules own as well.
    """

    path: str
    module: nn.Module
    names: tuple[str, ...]
    tied: frozenset[str] = frozenset()
    players: dict[tuple[str, ...], ModulePlayer | Refusal] = field(default_factory=dict)

    def player(self, names: tuple[str, ...]) -> ModulePlayer | Refusal:
        """The player for those of its parameters that train in this step."""
        if names not in self.players:
            tied = self.tied.intersection(names)
            self.players[names] = Refusal(TIED.format(", ".join(sorted(tied)))) if tied else find(self.module, names)
        return self.players[names]

    def active(self) -> tuple[str, ...]:
        """Names of the parameters that have a gradient."""
        own = self.module._parameters  # what getattr finds in the end
        return tuple(name for name in self.names if own[name].grad is not None)  # type: ignore[union-attr]

    def tensors(self, names: tuple[str, ...]) -> list[Tensor]:
        return [self.module._parameters[name] for name in names]  # type: ignore[misc]

    @property
    def name(self) -> str:
        """Its path, and a name for the model itself."""
        return self.path or ROOT

    def dotted(self, name: str) -> str:
        """The parameter's name in the model."""
        return f"{self.path}.{name}" if self.path else name

    def slot(self, batch_dim: int) -> Slot | None:
        """How its calls are captured; None where no player can use them."""
        player = self.player(self.names)
        if isinstance(player, Refusal):
            return None
        width = player.width if isinstance(player, MatrixModulePlayer) else 1
        dim = batch_dim if player.any_batch_dim else 0
        return Slot(player.whole, player.draws, dim, width, player.entangled, player.dims)


def seats_of(model: nn.Module, held: set[int]) -> list[Seat]:
    """Every module that owns parameters whose ids are in ``held``, in the order of definition.

    A parameter that several modules share sits at the first of them, so that it is moved once.
    """
    owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
    seats, seated = [], set[int]()
    for path, module in model.named_modules():
        own = {name: id(p) for name, p in module.named_parameters(recurse=False) if id(p) in held - seated}
        seated.update(own.values())
        if own:
            tied = frozenset(name for name, key in own.items() if owners[key] > 1)
            seats.append(Seat(path, module, tuple(own), tied))
    return seats
