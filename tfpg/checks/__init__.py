"""A look at an environment before a run is wasted on it: ``tfpg check``."""

from tfpg.checks.env_checks import check_env
from tfpg.checks.verdicts import Report, Row

__all__ = ["Report", "Row", "check_env"]
