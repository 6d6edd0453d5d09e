"""The Trainer of transformers, which builds the optimizer from groups of its own."""

from __future__ import annotations

import copy
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from trainer_cases import CLIP, equal, feedback_of

from ocnopt import OCNOpt
from ocnopt.integrations import GroupedOCNOpt, hugging_face

transformers = pytest.importorskip("transformers", reason="transformers comes with the extra 'trainers'.")
pytest.importorskip("accelerate", reason="The Trainer needs accelerate, of the extra 'trainers'.")

CLASSES, WORDS, LENGTH = 3, 12, 6


def bert(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A classifier with dropout switched off, always with the same weights."""
    transformers.set_seed(0)
    config = transformers.BertConfig(
        vocab_size=WORDS, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=LENGTH, num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).to(dtype)


def sentences(count: int = 160) -> list[dict[str, Tensor]]:
    """The class is that of the first word."""
    words = torch.randint(WORDS, (count, LENGTH), generator=torch.Generator().manual_seed(1))
    return [{"input_ids": row, "labels": row[0] % CLASSES} for row in words]


def adamw(model: nn.Module) -> tuple[type, dict[str, Any]]:
    return AdamW, {"lr": 1e-2}


CHOICES = {"adamw": adamw, "ocnopt": hugging_face, "ocnopt-adam": partial(hugging_face, curvature="adam")}
"""The first is the control."""
every_choice = pytest.mark.parametrize("name", CHOICES)


def trainer_of(name: str, folder: Path, model: nn.Module | None = None, **options: Any) -> Any:
    model = model or bert()
    given = {
        **{"output_dir": str(folder), "max_steps": 12, "per_device_train_batch_size": 16, "use_cpu": True},
        **{"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "logging_steps": 4, **options},
    }
    arguments = transformers.TrainingArguments(**given)
    return transformers.Trainer(
        model, arguments, train_dataset=sentences(), optimizer_cls_and_kwargs=CHOICES[name](model)
    )


def losses(trainer: Any) -> list[float]:
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


@every_choice
@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
def test_the_loss_falls(name: str, bf16: bool, tmp_path: Path) -> None:
    """Failing, the Trainer cannot build the optimizer, or what it wraps hides the loss from it."""
    trainer = trainer_of(name, tmp_path, bf16=bf16, max_steps=24)
    trainer.train()
    assert losses(trainer)[-1] < 0.7 * losses(trainer)[0]
    if name != "adamw":
        assert isinstance(trainer.optimizer.optimizer, GroupedOCNOpt)
        seen = {row.parameter: row.terminal for row in trainer.optimizer.optimizer.coverage() if row.feedback}
        assert feedback_of(trainer.optimizer.optimizer) > 0.8 and set(seen.values()) == {"true-vs-rest"}


def replayed(name: str, given: list[dict[str, Tensor]], trainer: Any) -> nn.Module:
    """The Trainer's loop by hand, on the micro-batches that it has used: two for a step.

    Their losses are summed: BERT takes the number of labels that the Trainer tells it, and makes no use of it.
    """
    model = bert(torch.float64)
    decayed = set(trainer.get_decay_parameter_names(model))
    groups = [
        {"params": [p for n, p in model.named_parameters() if n in decayed], "weight_decay": 0.1},
        {"params": [p for n, p in model.named_parameters() if n not in decayed], "weight_decay": 0.0},
    ]
    kind, options = CHOICES[name](model)
    optimizer = kind(groups, **options)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, 3, 12)
    for first, second in zip(given[::2], given[1::2], strict=True):
        for batch in (first, second):
            model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return model


@every_choice
def test_trains_like_the_loop_by_hand(name: str, tmp_path: Path) -> None:
    """Failing, the Trainer's groups, schedule, clipping or accumulation do not reach the optimizer as they are."""
    model = bert(torch.float64)
    options = {"weight_decay": 0.1, "max_grad_norm": CLIP, "gradient_accumulation_steps": 2, "warmup_steps": 3}
    # The rate of the arguments is for optimizers that the Trainer chooses; if it were used, all would be lost.
    trainer = trainer_of(name, tmp_path, model, learning_rate=1e3, **options)
    given, collate = [], trainer.data_collator
    trainer.data_collator = lambda rows: given.append(collate(rows)) or dict(given[-1])
    trainer.train()
    other = replayed(name, given[:24], trainer)
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    assert max(float((p - q).detach().abs().max()) for p, q in pairs) < 1e-9
    assert not equal(model, bert(torch.float64))


@every_choice
def test_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    """Failing, ``resume_from_checkpoint`` brings back another state than was saved."""
    whole, cut, resumed = bert(), bert(), bert()
    options = {"save_strategy": "steps", "save_steps": 5, "weight_decay": 0.1}
    trainer_of(name, tmp_path / "whole", whole, **options).train()
    stopped = trainer_of(name, tmp_path / "cut", cut, **options)
    stopped.add_callback(StopAfter(7))
    stopped.train()
    trainer_of(name, tmp_path / "cut", resumed, **options).train(resume_from_checkpoint=True)
    assert equal(whole, resumed) and not equal(whole, cut)


class StopAfter(transformers.TrainerCallback):
    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        control.should_training_stop = state.global_step == self.steps


def test_another_model_is_refused(tmp_path: Path) -> None:
    """Failing, a Trainer with ``model_init`` trains nothing, as its optimizer listens to a model that nobody calls."""
    trainer = trainer_of("ocnopt", tmp_path)
    trainer.optimizer_cls_and_kwargs = hugging_face(bert())
    with pytest.raises(ValueError, match="of the parameters do not belong to the model"):
        trainer.train()


def test_its_groups_are_kept(tmp_path: Path) -> None:
    """Failing, weight decay acts on all parameters or on none. Without ``hugging_face`` the Trainer drops it."""
    trainer = trainer_of("ocnopt", tmp_path, weight_decay=0.1)
    assert [group["weight_decay"] for group in trainer.create_optimizer().param_groups] == [0.1, 0.0]
    plain = trainer_of("ocnopt", tmp_path, weight_decay=0.1)
    plain.optimizer_cls_and_kwargs = OCNOpt, {"model": plain.model}
    assert [group["weight_decay"] for group in plain.create_optimizer().param_groups] == [0.0]


def test_measured_steps_say_that_the_trainer_has_no_closure(tmp_path: Path) -> None:
    trainer = trainer_of("ocnopt", tmp_path)
    trainer.optimizer_cls_and_kwargs = hugging_face(trainer.model, search="levenberg-marquardt")
    with pytest.raises(ValueError, match=r"needs optimizer\.step"):
        trainer.train()


def test_the_class_is_copied_and_pickled_as_ocnopt_is() -> None:
    model = bert()
    kind, options = hugging_face(model, curvature="adam")
    optimizer = kind([{"params": list(model.parameters()), "weight_decay": 0.1}], **options)
    for _, other in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        assert type(other) is GroupedOCNOpt and other.param_groups[0]["weight_decay"] == 0.1
