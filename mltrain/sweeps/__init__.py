"""Sweeps: every combination of the values given with -m, run as jobs of a Hydra launcher."""
