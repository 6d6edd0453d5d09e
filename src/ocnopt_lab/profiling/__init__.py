"""Time per step and peak memory of optimizers, as ratios to torch's Adam."""
