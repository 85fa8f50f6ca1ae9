"""Going on with a training that was killed, bit for bit: checkpoints, and how they are kept."""

from tfpg.resuming.checkpoints import Checkpoints, check_versions, versions
from tfpg.resuming.store import Checkpoint, Store

__all__ = ["Checkpoint", "Checkpoints", "Store", "check_versions", "versions"]
