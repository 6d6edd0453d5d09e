"""What libraries need that build the optimizer themselves. Lightning and accelerate take OCNOpt as it is."""

from .hugging_face import GroupedOCNOpt, hugging_face

__all__ = ["GroupedOCNOpt", "hugging_face"]
