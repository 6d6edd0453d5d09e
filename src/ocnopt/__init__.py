"""ocnopt: train neural networks by optimal control. ``OCNOpt(model)`` takes the place of AdamW."""

from .optim import OCNOpt

__version__ = "0.1.0"
__all__ = ["OCNOpt", "__version__"]
