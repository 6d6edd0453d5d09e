"""The optimizers a profile compares."""

from __future__ import annotations

from functools import partial

from ocnopt_lab.optimizers import OptimizerConfig

BASELINE, REFERENCE = "adam (torch)", "adamw foreach (torch)"
WITHOUT, WITH = "ocnopt ekfac, no feedback", "ocnopt default"
_adam = partial(OptimizerConfig, "ocnopt", curvature="adam", search="fixed")
VARIANTS = {
    BASELINE: OptimizerConfig("adam"),
    REFERENCE: OptimizerConfig("adamw", foreach=True),
    "ocnopt adam, no feedback": _adam(feedback=0.0),
    "ocnopt adam, linear, 64": _adam(feedback_samples="64"),
    "ocnopt adam, linear, 64, every step": _adam(feedback_samples="64", feedback_every=1),
    "ocnopt adam, linear, all": _adam(feedback_samples="all"),
    "ocnopt adam, linear, all, every step": _adam(feedback_samples="all", feedback_every=1),
    "ocnopt adam, nonlinear": _adam(rollout="nonlinear"),
    "ocnopt adam, nonlinear, every step": _adam(rollout="nonlinear", feedback_every=1),
    WITHOUT: OptimizerConfig("ocnopt", curvature="ekfac", feedback=0.0),
    WITH: OptimizerConfig("ocnopt"),
    "ocnopt default, every step": OptimizerConfig("ocnopt", feedback_every=1),
}
"""The default is ekfac with feedback. Feedback rests in between where nothing else is said."""
GAMES = {
    "ocnopt feedback-nash": OptimizerConfig("ocnopt", game="feedback-nash", alignment="last"),
    "ocnopt cooperative": OptimizerConfig("ocnopt", game="cooperative", alignment="last"),
    "ocnopt cooperative, bandit": OptimizerConfig("ocnopt", game="cooperative", alignment="bandit"),
    "ocnopt cooperative-product": OptimizerConfig("ocnopt", game="cooperative-product", alignment="last"),
}
"""For networks whose layers share stages."""
