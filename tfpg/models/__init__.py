"""Keras models, and what their outputs mean."""
