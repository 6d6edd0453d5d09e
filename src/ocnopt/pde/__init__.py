"""Physics-informed networks: a network's state is a jet, and an equation's residual is an ordinary output."""

from .jets import Directions, Jet
from .layers import ACTIVATIONS, JetActivation, JetLinear
from .network import JetNetwork
from .residual import Condition, Residual

__all__ = ["ACTIVATIONS", "Condition", "Directions", "Jet", "JetActivation", "JetLinear", "JetNetwork", "Residual"]
