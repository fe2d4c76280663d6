"""Attacks on whole commands; `python -m tests.attack` runs them."""
