"""Forecast the memory, FLOPs, time and cost of a recipe, before anything runs."""
