"""Checks of environments and of the installation: ``tfpg check`` and ``tfpg doctor``."""

from tfpg.checks.env_checks import check_env
from tfpg.checks.report import Report, Row

__all__ = ["Report", "Row", "check_env"]
