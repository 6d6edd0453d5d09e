"""The optimizers a profile compares."""

from __future__ import annotations

from ocnopt_lab.optimizers import OptimizerConfig

BASELINE, REFERENCE = "adam (torch)", "adamw foreach (torch)"
WITHOUT, WITH = "ocnopt ekfac, no feedback", "ocnopt default"
VARIANTS = {
    BASELINE: OptimizerConfig("adam"),
    REFERENCE: OptimizerConfig("adamw", foreach=True),
    "ocnopt adam, no feedback": OptimizerConfig("ocnopt", curvature="adam", search="fixed", feedback=0.0),
    "ocnopt adam, linear, 64": OptimizerConfig("ocnopt", curvature="adam", search="fixed", feedback_samples="64"),
    "ocnopt adam, linear, all": OptimizerConfig("ocnopt", curvature="adam", search="fixed", feedback_samples="all"),
    "ocnopt adam, nonlinear": OptimizerConfig("ocnopt", curvature="adam", search="fixed", rollout="nonlinear"),
    WITHOUT: OptimizerConfig("ocnopt", curvature="ekfac", feedback=0.0),
    WITH: OptimizerConfig("ocnopt"),
}
"""The default is ekfac with feedback."""
GAMES = {
    "ocnopt feedback-nash": OptimizerConfig("ocnopt", game="feedback-nash", alignment="last"),
    "ocnopt cooperative": OptimizerConfig("ocnopt", game="cooperative", alignment="last"),
    "ocnopt cooperative, bandit": OptimizerConfig("ocnopt", game="cooperative", alignment="bandit"),
    "ocnopt cooperative-product": OptimizerConfig("ocnopt", game="cooperative-product", alignment="last"),
}
"""For networks whose layers share stages."""
