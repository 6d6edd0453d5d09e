"""The trainers that run the loop in the user's place: Lightning, Hugging Face's Trainer, accelerate."""

from __future__ import annotations

import logging
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, lr_scheduler
from torch.utils.data import DataLoader

from ocnopt_lab.acceptance.check import Bench, Contender, require
from ocnopt_lab.acceptance.loops import plain_sgd
from ocnopt_lab.acceptance.networks import halved, moved_and_finite
from ocnopt_lab.acceptance.problems import built, class_loss
from ocnopt_lab.acceptance.run import Run, apart, same, weights

STEPS, HALF = 4, 2


def loader(run: Run, steps: int = STEPS) -> DataLoader[Tensor]:
    """The batches of the steps, one after the other."""
    samples = torch.cat([run.batch(step) for step in range(steps)])
    return DataLoader(samples, batch_size=len(run.batch(0)))  # type: ignore[arg-type]


def as_the_plain_loop(model: nn.Module, plain: Run) -> None:
    """Raise Failed unless the weights are those of the loop that is written by hand."""
    plain.train(range(STEPS))
    far = apart(model.parameters(), plain.model.parameters())
    require(far < 1e-6, f"weights differ from those of the plain loop by {far:.1e}")


def lightning(contender: Contender, bench: Bench) -> None:
    """Automatic optimization in float32 and with bfloat16 autocast."""
    from lightning import LightningModule, Trainer

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = built()

        def training_step(self, batch: Tensor) -> Tensor:
            return class_loss(self.network, batch)

        def configure_optimizers(self) -> Optimizer:
            return contender.make(self.network)

    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for precision, around in (("32-true", nullcontext), ("bf16-mixed", halved)):
        module, batches = Module(), loader(Run(plain_sgd, "mlp", torch.float32))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = Trainer(
                max_steps=STEPS, accelerator="cpu", precision=precision, enable_model_summary=False, **quiet
            )
            trainer.fit(module, batches)
        plain = Run(contender.make, "mlp", torch.float32)
        plain.around = around
        as_the_plain_loop(module.network, plain)


class Returning(nn.Module):
    """A model as Hugging Face has them: it computes its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.network = built()

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": class_loss(self.network, x)}


def hugging_face(contender: Contender, bench: Bench) -> None:
    """Handed over as class and arguments; one run is uninterrupted, and one goes on from its checkpoint."""
    folder = bench.folder()
    whole, resumed = Returning(), Returning()
    before = weights(whole)
    trainer_of(contender, whole, folder).train()
    trainer_of(contender, resumed, bench.folder()).train(resume_from_checkpoint=str(folder / f"checkpoint-{HALF}"))
    moved_and_finite(before, weights(whole))
    require(same(weights(whole), weights(resumed)), "a run that goes on from its checkpoint ends with other weights")


def trainer_of(contender: Contender, model: nn.Module, folder: Path) -> Any:
    """The class is handed what stands under "model" in place of parameter groups, as that of LOMO is."""
    from transformers import Trainer, TrainingArguments

    run = Run(plain_sgd, "mlp", torch.float32)
    samples = [{"x": x} for step in range(STEPS) for x in run.batch(step)]
    arguments = TrainingArguments(
        str(folder), max_steps=STEPS, per_device_train_batch_size=len(run.batch(0)), save_steps=HALF,
        use_cpu=True, disable_tqdm=True, report_to=[], logging_strategy="no",
    )  # fmt: skip
    made = (class_of(contender), {"model": model})
    return Trainer(model, arguments, train_dataset=samples, optimizer_cls_and_kwargs=made)


def class_of(contender: Contender) -> type[Optimizer]:
    """A class whose objects are those that the contender makes: the Trainer tells classes from functions."""

    class Made(Optimizer):
        def __new__(cls, model: nn.Module) -> Any:
            return contender.make(model)

    return Made


def accelerate(contender: Contender, bench: Bench) -> None:
    """Prepared, clipped and scheduled by an Accelerator, and gone on with from the state that it saved."""
    from accelerate import Accelerator

    folder, models = bench.folder(), []
    for steps in (range(STEPS), range(HALF, STEPS)):
        accelerator, run = Accelerator(cpu=True), Run(contender.make, "mlp", torch.float32)
        scheduler = lr_scheduler.LinearLR(run.optimizer, 1.0, 0.5, STEPS)
        call, optimizer, scheduler = accelerator.prepare(run.model, run.optimizer, scheduler)
        if steps.start:
            accelerator.load_state(str(folder))
        for step in steps:
            optimizer.zero_grad()
            accelerator.backward(run.problem.loss(call, run.batch(step)))
            accelerator.clip_grad_norm_(call.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            if step == HALF - 1:
                accelerator.save_state(str(folder))
        models.append(run.model)
    moved_and_finite(weights(built()), weights(models[0]))
    require(same(*map(weights, models)), "a run that goes on from its saved state ends with other weights")
