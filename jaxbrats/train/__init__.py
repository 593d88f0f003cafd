"""Training: device mesh, optimiser, state, step, checkpoints, logs and the loop that joins them."""
