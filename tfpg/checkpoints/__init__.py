"""Checkpoints on disk: their format, writing and reading them."""
