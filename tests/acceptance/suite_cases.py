"""Who is put to the checks in the tests, and who must fail them."""

from __future__ import annotations

from ocnopt.curvature import TABLE
from ocnopt_lab.acceptance.contenders import CONTROL, combination

EACH_CURVATURE = (CONTROL, *TABLE)
"""With the default value and roll-out."""

ALL = (
    *EACH_CURVATURE,
    *(combination(curvature, "coupled", "linear") for curvature in ("adam", "kfac")),
    *(combination(curvature, "per-sample", "nonlinear") for curvature in ("rmsprop", "ekfac")),
    *(combination(curvature, "coupled", "nonlinear") for curvature in ("sgd", "ekfac")),
)
"""Every value and roll-out with a diagonal and with a Kronecker metric, every curvature with one of them."""

SABOTAGE = {
    "bfloat16 parameters": "rough",
    "resume": "forgetful",
    "distributed checkpoint": "forgetful",
    "torch.compile": "noisy",
    "lr schedulers": "rough",
    "step(closure)": "deaf",
    "clip_grad_norm_": "unclipped",
    "GradScaler": "unclipped",
    "gradient accumulation": "unclipped",
    "activation checkpointing": "noisy",
    "frozen layers": "thawed",
    "DDP": "noisy",
    "FSDP2": "local",
    "Lightning": "deaf",
    "Hugging Face Trainer": "forgetful",
    "accelerate": "forgetful",
}
"""Check → who must fail it; "idle" in all others."""
