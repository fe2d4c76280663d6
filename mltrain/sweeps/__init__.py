"""Sweeps: every combination of the values given with -m, as jobs of a Hydra launcher."""
