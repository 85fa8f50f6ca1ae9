"""Going on with a training that was killed, bit for bit: checkpoints, and how they are kept."""

from tfpg.checkpoints.manager import Checkpoints
from tfpg.checkpoints.store import Checkpoint, Store
from tfpg.checkpoints.versions import check_versions, versions

__all__ = ["Checkpoint", "Checkpoints", "Store", "check_versions", "versions"]
