"""Data sets as tensors in memory: found on disk, shipped with scikit-learn, or downloaded into a cache."""

from ocnopt_lab.data.augmentation import Augmentation, CropAndFlip
from ocnopt_lab.data.dataset import LABELS, Dataset, Recipe
from ocnopt_lab.data.sources import load

__all__ = ["LABELS", "Augmentation", "CropAndFlip", "Dataset", "Recipe", "load"]
