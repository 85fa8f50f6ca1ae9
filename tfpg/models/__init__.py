"""Keras models, and the interpretation of their outputs."""
