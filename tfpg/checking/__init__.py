"""A look at an environment before a run is wasted on it: ``tfpg check``."""

from tfpg.checking.look import check_env
from tfpg.checking.verdicts import Report, Row

__all__ = ["Report", "Row", "check_env"]
