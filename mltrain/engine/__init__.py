"""The training loop and what it stands on: checkpoints, ranks, seeds, signals, logs."""
