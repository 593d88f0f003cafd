"""Training: settings, device mesh, state, step, checkpoints, logs and the loop that joins them."""
