"""Model files from anyone: looked through before Keras sees them, without importing Keras.

`archive` opens the file and bounds its sizes, `configs` allows the classes that its config may name
(`allowed` lists them), `weights` refuses what HDF5 can do beside holding numbers. Keras's own safe
mode is on besides, and has been got around before: CVE-2025-1550, 8747, 9906, 12058, 12060,
CVE-2026-0897, 1462 and 1669.
"""

from tfpg.core.files import read_json
from tfpg.models.safety.archive import Unpacked, check_model_file, unpacked

__all__ = ["Unpacked", "check_model_file", "read_json", "unpacked"]
