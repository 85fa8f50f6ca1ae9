"""Going on with a training that was killed, bit for bit: checkpoints, and how they are kept."""

from tfpg.resuming.checkpoints import Checkpoints
from tfpg.resuming.store import Checkpoint, Store
from tfpg.resuming.versions import check_versions, versions

__all__ = ["Checkpoint", "Checkpoints", "Store", "check_versions", "versions"]
