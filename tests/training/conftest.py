"""Fixtures of the training tests."""

from training_stages import data, make_recipe

__all__ = ["data", "make_recipe"]
