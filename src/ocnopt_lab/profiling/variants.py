"""The optimizers a profile compares."""

from __future__ import annotations

from ocnopt_lab.optimizers import OptimizerConfig

BASELINE = "adam (torch)"
VARIANTS = {
    BASELINE: OptimizerConfig("adam"),
    "adamw (torch)": OptimizerConfig("adamw"),
    "ocnopt adam, no feedback": OptimizerConfig("ocnopt", curvature="adam", search="fixed", feedback=0.0),
    "ocnopt adam, linear": OptimizerConfig("ocnopt", curvature="adam", search="fixed", feedback=1.0),
    "ocnopt ekfac, no feedback": OptimizerConfig("ocnopt", curvature="ekfac", feedback=0.0),
    "ocnopt default": OptimizerConfig("ocnopt"),
    "ocnopt adam, nonlinear": OptimizerConfig("ocnopt", curvature="adam", search="fixed", rollout="nonlinear"),
}
GAMES = {
    "ocnopt feedback-nash": OptimizerConfig("ocnopt", game="feedback-nash", alignment="last"),
    "ocnopt cooperative": OptimizerConfig("ocnopt", game="cooperative", alignment="last"),
    "ocnopt cooperative, bandit": OptimizerConfig("ocnopt", game="cooperative", alignment="bandit"),
    "ocnopt cooperative-product": OptimizerConfig("ocnopt", game="cooperative-product", alignment="last"),
}
"""For networks whose layers share stages."""
