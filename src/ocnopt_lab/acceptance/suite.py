"""All checks: what AdamW's users do with it, one line each."""

from __future__ import annotations

from ocnopt_lab.acceptance import loops, networks, processes, scaled, states, trainers
from ocnopt_lab.acceptance.check import Check
from ocnopt_lab.acceptance.networks import trains

_STOPS = "Training stops with an error, some parameters stay where they are, or the loss does not fall."

CHECKS: tuple[Check, ...] = (
    Check("MLP", _STOPS, trains("dense")),
    Check("CNN with BatchNorm and in-place ReLU", "Hooks and in-place operations collide in backward, or norms stay.",
          trains("batchnorm-cnn")),
    Check("Conv1d", "Convolutions of one dimension are refused or stay where they are.", trains("conv1d")),
    Check("MultiheadAttention", "Projections that are used without their module stay where they are.",
          trains("attention")),
    Check("tied embedding and LayerNorm", "A weight with two uses is moved twice or not at all, or norms stay.",
          trains("tied-language")),
    Check("GRU and LSTM", "Recurrent weights stay where they are.", trains("gru", "lstm")),
    Check("bfloat16 autocast", "Mixed precision stops with a dtype error in step, or state is kept in bfloat16.",
          networks.autocast),
    Check("bfloat16 parameters", "A decomposition fails, or loading rounds factors to eight bits.",
          networks.half_parameters),
    Check("resume", "A job that is killed and restarted ends with other weights, or its checkpoint cannot be read.",
          states.resume),
    Check("distributed checkpoint", "torch.distributed.checkpoint cannot restore the state, or asking for it "
          "before the first step moves weights.", states.distributed_state),
    Check("torch.compile", "A compiled model stops with a compiler error or trains to other weights.", loops.compiling),
    Check("lr schedulers", "A scheduler is refused, its rate is ignored, or a rate of zero moves weights.",
          loops.schedulers),
    Check("step(closure)", "Code written for LBFGS takes other steps than the plain loop, or gets no loss back.",
          loops.closure),
    Check("clip_grad_norm_", "Clipping is ignored, or a limit that never binds changes the run.", loops.clipping),
    Check("GradScaler", "Steps depend on the scale, or an overflow spoils the averages of later steps.",
          scaled.scaling),
    Check("gradient accumulation", "Four small batches and one large one train to different weights.",
          loops.accumulation),
    Check("activation checkpointing", "Saving memory changes the run.", loops.checkpointing),
    Check("frozen layers", "Gradual unfreezing moves frozen weights, or layers that come back stay.", loops.freezing),
    Check("DDP", "Two processes train different networks, or other ones than one process with all samples.",
          processes.parallel),
    Check("FSDP2", "Sharded models fail deep inside of a step, or train to other weights without a word.",
          processes.shards),
    Check("Lightning", "Automatic optimization fails or trains to other weights than the plain loop.",
          trainers.lightning, ("lightning", "lightning.pytorch")),
    Check("Hugging Face Trainer", "The Trainer cannot build it, or goes on from a checkpoint to other weights.",
          trainers.hugging_face, ("transformers", "transformers.trainer", "accelerate")),
    Check("accelerate", "A prepared optimizer fails, or goes on from a saved state to other weights.",
          trainers.accelerate, ("accelerate",)),
)  # fmt: skip
"""The rows of the matrix."""


def get(name: str) -> Check:
    """The check of that name. Raises KeyError for one that is not known."""
    return {check.name: check for check in CHECKS}[name]
