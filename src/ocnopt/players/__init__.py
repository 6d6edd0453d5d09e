"""One small adapter per layer type and a generic fallback: modules seen through their parameter Jacobian."""

from .base import MatrixModulePlayer, ModulePlayer
from .table import Refusal, find, register

__all__ = ["MatrixModulePlayer", "ModulePlayer", "Refusal", "find", "register"]
