"""The colours of methods in the pictures of the scripts."""

from __future__ import annotations

from typing import Any

# Okabe and Ito's palette; rivals are cool or grey.
COLOURS = {
    "adam-0.001": "#9BB8D3",
    "adam-0.003": "#0072B2",
    "adam-0.01": "#56B4E9",
    "adam-0.03": "#7B6BB5",
    "adam-0.1": "#2B2E83",
    "sgd-0.03": "#C4C4C4",
    "sgd-0.1": "#9A9A9A",
    "sgd-0.3": "#666666",
    "ocnopt": "#D55E00",
    "no-game": "#000000",
    "nash-last": "#009E73",
    "cooperative-first": "#E69F00",
    "cooperative-last": "#D55E00",
    "cooperative-bandit": "#8B1A1A",
}


def style(method: str) -> dict[str, Any]:
    """Rivals have thin lines."""
    width = 1.3 if method.startswith(("adam", "sgd")) else 2.0
    return {"color": COLOURS.get(method, "#333333"), "linewidth": width}
