"""Lightning with automatic optimization, which hands the optimizer a closure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from trainer_cases import (
    ACCUMULATE,
    CLIP,
    OPTIMIZERS,
    Make,
    batches,
    by_hand,
    equal,
    every_optimizer,
    feedback_of,
    mean_loss,
    network,
    schedule,
)

from ocnopt import OCNOpt
from ocnopt.curvature import EKFAC

lightning = pytest.importorskip("lightning", reason="Lightning comes with the extra 'trainers'.")
from lightning.pytorch.strategies import DDPStrategy  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec")

QUIET = {
    **{"accelerator": "cpu", "devices": 1, "logger": False},
    **{"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False},
}


class Module(lightning.LightningModule):
    def __init__(self, make: Make) -> None:
        super().__init__()
        self.network, self.make = network(), make

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.network(x), y)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.make(self.network)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule(optimizer), "interval": "step"}}


def fit(module: Any, data: Any = None, path: Path | None = None, **options: Any) -> Any:
    """The trainer after the fit."""
    trainer = lightning.Trainer(**{**QUIET, "max_epochs": 1, **options})
    trainer.fit(module, DataLoader(data or batches(), batch_size=None, shuffle=False), ckpt_path=path)
    return trainer


@every_optimizer
def test_fits_like_the_loop_by_hand(name: str) -> None:
    """Failing, clipping, accumulation or the schedule mean something else to the optimizer than in a plain loop."""
    module = Module(OPTIMIZERS[name])
    trainer = fit(module, gradient_clip_val=CLIP, accumulate_grad_batches=ACCUMULATE)
    assert equal(module.network, by_hand(OPTIMIZERS[name], batches()))
    assert not equal(module.network, by_hand(OPTIMIZERS[name], batches(), clip=1e6))
    assert name == "adamw" or feedback_of(trainer.optimizers[0]) == 1


@every_optimizer
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_the_loss_falls_in_every_precision(name: str, precision: str) -> None:
    """Failing, half precision breaks the capture or the step; factors have to stay in float32."""
    module = Module(OPTIMIZERS[name])
    before = mean_loss(module.network)
    trainer = fit(module, precision=precision, max_epochs=2)
    expected = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert all(p.dtype == expected for p in module.network.parameters())
    assert mean_loss(module.network) < 0.8 * before
    if name != "adamw":
        assert feedback_of(trainer.optimizers[0]) == 1
        assert {row.terminal for row in trainer.optimizers[0].coverage()} == {"true-vs-rest"}
    if name == "ocnopt":
        assert all(state["A"].dtype == torch.float32 for state in trainer.optimizers[0].state.values() if "A" in state)


@every_optimizer
@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_resumes_bit_for_bit(name: str, precision: str, tmp_path: Path) -> None:
    """Failing, ``ckpt_path`` brings back another state than was saved."""
    whole, cut, resumed = (Module(OPTIMIZERS[name]) for _ in range(3))
    fit(whole, precision=precision, max_epochs=2)
    fit(cut, precision=precision, max_epochs=1).save_checkpoint(tmp_path / "last.ckpt")
    fit(resumed, precision=precision, max_epochs=2, path=tmp_path / "last.ckpt")
    assert equal(whole.network, resumed.network) and not equal(whole.network, cut.network)


def measured(model: nn.Module) -> OCNOpt:
    return OCNOpt(model, search="levenberg-marquardt")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_steps_are_measured_with_its_closure(precision: str) -> None:
    """Failing, the closure that Lightning wraps is refused, or its loss is read off another point than the step's."""
    module = Module(measured)
    trainer = fit(module, batches(2) * 10, precision=precision)
    assert mean_loss(module.network) < 0.8 * mean_loss(network())
    last, told = trainer.optimizers[0].last_step, trainer.optimizers[0].diagnostics()
    assert last is not None and last.predicted > 0 and told["tries"] >= told["step"] == 20


def test_measured_steps_refuse_accumulation() -> None:
    """Failing, steps follow the gradient of all micro-batches, and are judged by the loss of the last."""
    with pytest.raises(ValueError, match="Gradients from before the closure are a part of this step"):
        fit(Module(measured), accumulate_grad_batches=2)


class ByHand(Module):
    """A squared error with manual optimization, all of it through the wrapper that ``optimizers()`` returns."""

    automatic_optimization = False

    def training_step(self, batch: Any, index: int) -> None:
        x, y = batch
        optimizer = self.optimizers()
        optimizer.zero_grad()
        output = self.network(x)
        optimizer.backward(F.mse_loss(output, F.one_hot(y, 4).float()), output)
        optimizer.step()

    def configure_optimizers(self) -> Any:
        return self.make(self.network)


def plainly(make: Make) -> Iterator[Any]:
    """The same without Lightning: the optimizer, and the model after every step."""
    model = network()
    optimizer = make(model)
    for x, y in batches():
        optimizer.zero_grad()
        output = model(x)
        optimizer.backward(F.mse_loss(output, F.one_hot(y, 4).float()), output)
        optimizer.step()
    yield from (optimizer, model)


def test_its_wrapper_is_the_optimizer() -> None:
    """Failing, what is said to the wrapper of ``self.optimizers()`` stays there: it has the methods, not the state."""
    module = ByHand(OCNOpt)
    fit(module)
    wrapper, (plain, model) = module.optimizers(), plainly(OCNOpt)
    assert wrapper is not module.trainer.optimizers[0]
    assert plain.diagnostics()["loss"] > 0 and wrapper.diagnostics() == plain.diagnostics()
    assert equal(module.network, model)


def test_its_wrapper_shows_the_last_step() -> None:
    module = Module(measured)
    fit(module, batches(2))
    assert module.optimizers().last_step is module.trainer.optimizers[0].last_step is not None


class OfItself(Module):
    def configure_optimizers(self) -> Any:
        return OCNOpt(self)


def test_given_the_module_itself_it_does_not_see_the_loss() -> None:
    """The page says so: should this fail, the advice there to give OCNOpt the network is no longer needed."""
    module = OfItself(OCNOpt)
    trainer = fit(module)
    assert {row.terminal for row in trainer.optimizers[0].coverage()} == {"gradient, beta=0.01"}
    assert mean_loss(module.network) < mean_loss(network())


class Spread(Module):
    """Every rank sees its half of each batch, and looks at the end whether all have the same weights."""

    def train_dataloader(self) -> DataLoader:
        rank, size = self.global_rank, self.trainer.world_size
        return DataLoader([(x.chunk(size)[rank], y.chunk(size)[rank]) for x, y in batches()], batch_size=None)

    def on_train_end(self) -> None:
        mine = nn.utils.parameters_to_vector(self.network.parameters()).detach()
        assert all(torch.equal(mine, theirs) for theirs in self.all_gather(mine))
        assert self.global_step == len(batches())


def without_draws(model: nn.Module) -> OCNOpt:
    """Each process draws labels for itself, which one process cannot repeat."""
    return OCNOpt(model, curvature=EKFAC(fisher="given"))


@pytest.mark.filterwarnings("ignore:.*all_gather", "ignore:.*fork", "ignore:.*barrier")
@pytest.mark.parametrize("make", [OPTIMIZERS["adamw"], without_draws], ids=["adamw", "ocnopt"])
def test_two_processes_are_one_with_all_samples(make: Make) -> None:
    """Failing, ``strategy="ddp"`` trains each process's network by itself, or all by another method."""
    strategy = DDPStrategy(start_method="fork", process_group_backend="gloo", timeout=timedelta(seconds=60))
    spread, alone = Spread(make), Module(make)
    trainer = lightning.Trainer(
        **{**QUIET, "devices": 2},
        max_epochs=1,
        strategy=strategy,
        use_distributed_sampler=False,
        gradient_clip_val=CLIP,
    )
    trainer.fit(spread)
    fit(alone, gradient_clip_val=CLIP)
    pairs = zip(spread.network.parameters(), alone.network.parameters(), strict=True)
    assert max(float((p - q).detach().abs().max()) for p, q in pairs) < 1e-4
