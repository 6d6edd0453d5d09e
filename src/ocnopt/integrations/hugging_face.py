"""The Trainer of transformers, which builds its optimizer from the parameter groups that it has made."""

from __future__ import annotations

from typing import Any

from torch import nn

from ocnopt.optim import OCNOpt, Params


class GroupedOCNOpt(OCNOpt):
    """OCNOpt with torch's order of arguments: parameters or groups first, and the model they belong to by name.

    module: the model. Not called ``model``: an option of that name the Trainer takes in place of its groups.
    options: those of OCNOpt.
    """

    def __init__(self, params: Params, *, module: nn.Module, **options: Any) -> None:
        super().__init__(module, params=params, **options)


def hugging_face(model: nn.Module, **options: Any) -> tuple[type[GroupedOCNOpt], dict[str, Any]]:
    """``Trainer(model, args, optimizer_cls_and_kwargs=hugging_face(model))``.

    The Trainer's groups keep its ``weight_decay`` off biases and norms. ``lr`` is one of the options, and
    ``TrainingArguments.learning_rate`` is not looked at; schedulers and warm-up multiply the former.

    Raises what OCNOpt raises, when training begins; ValueError for a model that is not the Trainer's, as where
    ``model_init`` makes another.
    """
    return GroupedOCNOpt, {"module": model, **options}
