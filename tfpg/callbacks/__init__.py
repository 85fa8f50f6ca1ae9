"""Callbacks of tfpg. Everything else is Keras's own: any stock callback works unmodified."""

from tfpg.callbacks.best import KeepBest
from tfpg.callbacks.diagnostics import Diagnostics
from tfpg.callbacks.metrics import MetricsLogger
from tfpg.callbacks.progress_bar import ProgressBar
from tfpg.callbacks.stopping import StopAtReturn, StopAtSteps
from tfpg.callbacks.videos import RecordVideo, Snapshots

__all__ = [
    "Diagnostics",
    "KeepBest",
    "MetricsLogger",
    "ProgressBar",
    "RecordVideo",
    "Snapshots",
    "StopAtReturn",
    "StopAtSteps",
]
