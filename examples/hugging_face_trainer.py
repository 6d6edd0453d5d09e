"""A small Llama learns arithmetic progressions with the Trainer: ``python examples/hugging_face_trainer.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import EvalPrediction, LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed
from transformers.utils import logging

from ocnopt.integrations import hugging_face

MODULUS, LENGTH = 19, 10


class Progressions(Dataset):
    """Sequences a, a + d, a + 2d, … modulo 19 with d of 1, 2 or 3: from the third number on, all of it is known."""

    def __init__(self, size: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        a = torch.randint(MODULUS, (size, 1), generator=generator)
        d = torch.randint(1, 4, (size, 1), generator=generator)
        self.numbers = (a + d * torch.arange(LENGTH)) % MODULUS

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.numbers[i], "labels": self.numbers[i]}


def llama() -> LlamaForCausalLM:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(
        vocab_size=MODULUS, max_position_embeddings=LENGTH, bos_token_id=None, eos_token_id=None, **sizes
    )
    return LlamaForCausalLM(config)


def metrics(found: EvalPrediction) -> dict[str, float]:
    """Accuracy on all numbers that can be known from those before."""
    guesses, truth = np.argmax(found.predictions, -1)[:, 1:-1], found.label_ids[:, 2:]
    return {"accuracy": float((guesses == truth).mean())}


def main(arguments: Sequence[str] | None = None) -> Trainer:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=float, default=5)
    parser.add_argument("--out", default="runs/progressions", help="folder of the checkpoints")
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    set_seed(0)
    model = llama()
    training = TrainingArguments(
        output_dir=options.out, num_train_epochs=options.epochs, per_device_train_batch_size=32,
        weight_decay=0.01, warmup_steps=10, lr_scheduler_type="cosine", use_cpu=True,
        report_to="none", disable_tqdm=True, save_strategy="no", logging_strategy="epoch",
    )  # fmt: skip
    data = {"train_dataset": Progressions(512, seed=1), "eval_dataset": Progressions(256, seed=2)}
    # TrainingArguments.learning_rate plays no part: lr is OCNOpt's own, the longest step that its model may propose.
    optimizer = hugging_face(model)
    trainer = Trainer(model, training, compute_metrics=metrics, optimizer_cls_and_kwargs=optimizer, **data)
    trainer.train()
    told = trainer.optimizer.optimizer.diagnostics()
    print(f"feedback on {told['parameters with feedback']} of {told['parameters']} parameters")
    print(trainer.evaluate())
    return trainer


if __name__ == "__main__":
    main()
