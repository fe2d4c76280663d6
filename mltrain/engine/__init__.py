"""The training loop and its parts: step, evaluation, checkpoints, ranks, signals, logs."""
