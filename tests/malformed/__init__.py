"""Inputs made wrong on purpose: what tests and `experiments/bad_input.py` try the readers with."""
