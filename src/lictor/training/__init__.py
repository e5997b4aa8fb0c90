"""Training: loss, step, loop, checkpoints, run folders."""
