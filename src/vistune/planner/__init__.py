"""Memory, FLOPs, time and cost of a recipe, before anything runs."""
