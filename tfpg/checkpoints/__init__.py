"""Checkpoints on disk: what they look like, when they are written, and how they are read."""
