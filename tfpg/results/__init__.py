"""Learning curves and comparisons of training runs."""
