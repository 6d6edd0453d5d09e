"""The game: layers that share a stage decide together (residual and inception networks)."""
