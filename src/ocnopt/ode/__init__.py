"""Continuous time: networks whose layers are the vector field of a differential equation."""
