"""Curvatures: the metric of each stage, from the identity to EKFAC."""

from .diagonal import SGD, Adam, Diagonal, RMSprop
from .ekfac import EKFAC
from .kronecker import KFAC, Kronecker

Curvature = Diagonal | Kronecker

TABLE: dict[str, type[Curvature]] = {"sgd": SGD, "rmsprop": RMSprop, "adam": Adam, "kfac": KFAC, "ekfac": EKFAC}
"""Short names, as the façade and the command line accept them."""

__all__ = ["EKFAC", "KFAC", "SGD", "TABLE", "Adam", "Curvature", "Diagonal", "Kronecker", "RMSprop"]
