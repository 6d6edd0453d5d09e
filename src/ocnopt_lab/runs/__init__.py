"""Training runs: the loop, its checkpoints and the folder it leaves behind."""
