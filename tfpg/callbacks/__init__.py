"""Callbacks of tfpg. All others are Keras's: any stock callback works unmodified."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tfpg.core.backend import lazy_names

if TYPE_CHECKING:
    from tfpg.callbacks.best import KeepBest
    from tfpg.callbacks.diagnostics import Diagnostics
    from tfpg.callbacks.metrics import MetricsLogger
    from tfpg.callbacks.progress_bar import ProgressBar
    from tfpg.callbacks.stopping import StopAtReturn, StopAtSteps
    from tfpg.callbacks.tensorboard import TensorBoard
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
    "TensorBoard",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Diagnostics": "tfpg.callbacks.diagnostics:Diagnostics",
        "KeepBest": "tfpg.callbacks.best:KeepBest",
        "MetricsLogger": "tfpg.callbacks.metrics:MetricsLogger",
        "ProgressBar": "tfpg.callbacks.progress_bar:ProgressBar",
        "RecordVideo": "tfpg.callbacks.videos:RecordVideo",
        "Snapshots": "tfpg.callbacks.videos:Snapshots",
        "StopAtReturn": "tfpg.callbacks.stopping:StopAtReturn",
        "StopAtSteps": "tfpg.callbacks.stopping:StopAtSteps",
        "TensorBoard": "tfpg.callbacks.tensorboard:TensorBoard",
    },
)
