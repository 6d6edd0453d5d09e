"""Training for some seconds, whatever the method: a clock, marks on the way, and the methods to compare."""

from .clock import Clock, Mark, Measured, train
from .fit import Fit

__all__ = ["Clock", "Fit", "Mark", "Measured", "train"]
