"""The run folder: layout, checkpoints, metrics, provenance."""
