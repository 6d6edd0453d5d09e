"""How far to go in steps without feedback or search, from what the last search has found.

Along the open-loop step δθ = −M⁻¹g and the previous direction u the slopes b = (⟨g, δθ⟩, ⟨g, u⟩) are known, the
curvatures are not. Where M holds too little of the curvature, what is steeper is also more curved, and what a step of
the search promises, α₁ |b₁|, changes less from batch to batch than α₁ and b₁ do. So

    α₁ = ᾱ₁ min(s, |b̄₁|/|b₁|)          ᾱ, b̄ of the last search, s = ``STRETCH``
    α₂ = min(ᾱ₂, ⟨ᾱ₂⟩) min(1, |b̄₁|/|b₁|)     with α₂ b₂ ≤ ``UPHILL`` α₁ |b₁|

where ⟨ᾱ₂⟩ is a mean over searches: one that rolls on with all of u would be repeated in all steps until the next. The
second line keeps a ball that rolls uphill from undoing what δθ gains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

STRETCH = 1.5
"""How much longer than the last search's a step may be, where the slope is smaller."""
UPHILL = 0.5
"""The most of a step's descent that the ball may take back."""
MEMORY = 0.8
"""Averaging coefficient of ⟨ᾱ₂⟩."""


@dataclass(frozen=True)
class Coasting:
    """Of the last search: length ᾱ₁, momentum ᾱ₂, and descent −b̄₁ along its whole step; usual: ⟨ᾱ₂⟩."""

    length: float = 0.0
    momentum: float = 0.0
    descent: float = 0.0
    usual: float = 0.0

    @classmethod
    def of(cls, numbers: Mapping[str, Any]) -> Coasting:
        """From where an optimizer keeps its numbers."""
        return cls(*(numbers.get(field.name, field.default) for field in fields(cls)))

    def after(self, length: float, momentum: float, descent: float) -> Coasting:
        """With what one more search has found."""
        return Coasting(length, momentum, descent, MEMORY * self.usual + (1 - MEMORY) * momentum)

    def coefficients(self, slope: float, uphill: float, longest: float) -> tuple[float, float]:
        """(α₁, α₂) for the slopes b, with α₁ ≤ longest; none of either where δθ does not descend."""
        descent = -slope
        if not 0 < descent < math.inf or not math.isfinite(uphill):
            return 0.0, 0.0
        part = max(0.0, self.descent) / descent
        fresh = min(self.length * min(STRETCH, part), longest)
        ball = min(self.momentum, self.usual) * min(1.0, part)
        return fresh, min(ball, UPHILL * fresh * descent / uphill) if uphill > 0 else ball
