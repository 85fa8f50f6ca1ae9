"""Checks of untrusted ``.keras`` files, before Keras loads them.

Threat model: the attacker chooses every byte of the file, and the user passes it to
`tfpg.load_model`. What the attacker may want, and what prevents it:

- **Run code.** A config can name Python functions, and Keras's safe mode has been bypassed many
  times (CVE-2024-3660; CVE-2025-1550, 8747, 9906 and 12060; CVE-2026-1462). Every class and
  function in the config must be listed in `tfpg.models.allowed_layers` or registered by the user.
  Safe mode stays on as a second defense. HDF5 models, SavedModels and pickles, which contain code
  by design, do not load at all.
- **Read other files.** Some layers read a vocabulary from any path (CVE-2025-12058), and HDF5 links
  and external arrays point into other files (CVE-2026-1669). The former are not on the list. The
  latter are refused: weights are read one by one, as plain arrays.
- **Write files.** Nothing is extracted by its name in the archive, which may hold three parts only.
- **Exhaust the memory** with a small file (CVE-2026-0897). Compressed parts, arrays larger than the
  file and huge numbers in the config are refused. `tfpg.load_model` compares the weights that the
  config describes with those in the file. Layers may be called on outputs of other layers only,
  because Keras computes a call on constants at once, however large its result is.
- **Confuse a parser.** Keras gets a new config and a new HDF5 file, written from the values that
  were checked, and never sees the attacker's bytes.

Not covered: time, because a model may be slow to build or run; bugs in the HDF5 library; and the
user's own registered classes, which do what their code does.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from tfpg.core.files import open_regular, parse_json
from tfpg.core.memory import check_memory, readable_bytes
from tfpg.core.messages import one_line
from tfpg.errors import CheckpointCorruptError, UnsafeCheckpointError, VersionSkewError
from tfpg.models.allowed_layers import (
    ALLOWED_CLASSES,
    ALLOWED_FUNCTIONS,
    DTYPES,
    REFUSED_CLASSES,
    REFUSED_OPTIONS,
    VALUES,
)
from tfpg.models.heads import QUANTILES

METADATA, CONFIG, WEIGHTS = PARTS = ("metadata.json", "config.json", "model.weights.h5")
HEAD = "tfpg_head.json"  # which only tfpg writes
_HEAD_OPTIONS = (
    *("from_logits", "positive_action", "squash", "log_std", "epsilon", "support", "value_scale"),
)
_MAX_BYTES = {METADATA: 2**16, CONFIG: 2**23, HEAD: 2**20}
_MAX_INDEX_BYTES = 2**16
_MAX_DEPTH = 100  # levels of nesting; a model within a model takes four
_MAX_OBJECTS = 20_000
_MAX_INTEGER = 2**20  # in the config of a layer or an operation
_UNLIMITED_INTEGERS = ("seed", "shared_object_id")
# The file's bytes, the arrays that are checked and the model's variables exist at the same time.
_COPIES = 4
_BFLOAT16 = np.dtype("V2")  # HDF5 has no such type


class CheckedModel(NamedTuple):
    """A checked model in a folder of its own, which `keras.saving.load_model` accepts."""

    folder: Path
    config: dict[str, Any]
    weight_bytes: int
    built_in: bool  # all classes are Keras's own
    head: dict[str, Any]  # options of the head with which the model acts


def check_model_file(path: str | os.PathLike) -> Path:
    """Check that a file looks like a ``.keras`` file, by its start and its end.

    Returns:
        The path.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: The path is a folder.
        CheckpointCorruptError: The file is not a complete zip archive.
        UnsafeCheckpointError: The path is a device or a pipe.

    Example:
        >>> check_model_file("missing.keras")
        Traceback (most recent call last):
            ...
        FileNotFoundError: No model at 'missing.keras'.
    """
    with _opened(Path(path)):
        return Path(path)


@contextmanager
def checked_model(
    path: str | os.PathLike,
    is_registered: Callable[[str], bool],
    allow_version_skew: bool,
) -> Iterator[CheckedModel]:
    """Check a ``.keras`` file and unpack it into a folder that exists during the block.

    Args:
        path: The path of the file.
        is_registered: Returns whether a name is that of a class or function of the user.
        allow_version_skew: Whether to accept a file that a newer Keras has saved.

    Raises:
        CheckpointCorruptError: The file is not a complete ``.keras`` file.
        UnsafeCheckpointError: The file has content that no model needs.
        VersionSkewError: A newer Keras has saved the file.
        MemoryError: The model does not fit into memory.
        OSError: The file cannot be read or unpacked.
    """
    file = str(path)
    with _opened(Path(path)) as opened:
        parts = _read_parts(opened, file)
    metadata = parse_json(parts[METADATA], f"{METADATA} in {file!r}")
    _check_version(metadata, file, allow_version_skew)
    config = parse_json(parts[CONFIG], f"{CONFIG} in {file!r}")
    head = _checked_head(parts.get(HEAD, b"{}"), file)
    checker = _ConfigChecker(file, is_registered)
    checker.check(config)
    weights, weight_bytes = _copy_weights(parts.pop(WEIGHTS), file)
    with tempfile.TemporaryDirectory(prefix="tfpg-") as folder:
        try:
            Path(folder, METADATA).write_text(json.dumps(metadata), encoding="ascii")
            Path(folder, CONFIG).write_text(json.dumps(config), encoding="ascii")
            Path(folder, WEIGHTS).write_bytes(weights.getbuffer())
        except OSError as error:
            raise OSError(
                f"{file!r} cannot be unpacked into {folder!r}: {error.strerror}. Set TMPDIR to a "
                "folder with more space."
            ) from error
        del weights
        yield CheckedModel(Path(folder), config, weight_bytes, checker.built_in, head)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if not path.exists():
        raise FileNotFoundError(f"No model at {str(path)!r}.")
    if path.is_dir():
        kind = "a TensorFlow SavedModel" if (path / "saved_model.pb").exists() else "a folder"
        raise IsADirectoryError(f"{str(path)!r} is {kind}. Pass a .keras file.")
    with open_regular(path) as opened:
        _check_kind(opened, str(path))
        yield opened


def _check_kind(opened: BinaryIO, file: str) -> None:
    start = opened.read(4)
    size = opened.seek(0, os.SEEK_END)
    opened.seek(max(0, size - 42))
    tail = opened.read()
    zip64, end = tail[:-22], tail[-22:]  # the last two records of an archive without a comment
    if start == b"\x89HDF":
        raise _corrupt(file, "it is an HDF5 file (.h5), an older format that can contain code")
    if start[:1] == b"\x80":
        raise _corrupt(file, "it is a pickle, such as PyTorch writes, which can run code")
    if start[:2] != b"PK" or end[:4] != b"PK\5\6":
        if start[:2] == b"PK":
            raise _corrupt(file, f"the file was cut short and has only {size:,} bytes")
        raise _corrupt(file, f"the file has {size:,} bytes and no zip header")
    index_bytes = int.from_bytes(end[12:16], "little")  # which zipfile reads at once
    if index_bytes > _MAX_INDEX_BYTES or (size < 2**32 and zip64[:4] == b"PK\6\7"):
        raise _refusal(file, "its index is too large for three parts")


def _read_parts(opened: BinaryIO, file: str) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(opened) as archive:
            infos = archive.infolist()
            _check_parts(infos, os.fstat(opened.fileno()).st_size, file)
            needed = _COPIES * sum(info.file_size for info in infos)
            check_memory(needed, f"The model {file!r}", "free some memory, or use a larger machine")
            return {info.filename: archive.read(info) for info in infos}
    except (CheckpointCorruptError, UnsafeCheckpointError, MemoryError):
        raise
    except Exception as error:
        raise _corrupt(file, one_line(error)) from error


def _check_parts(infos: list[zipfile.ZipInfo], size: int, file: str) -> None:
    names = [info.filename for info in infos]
    if missing := [part for part in PARTS if part not in names]:
        found = f"{', '.join(map(repr, names))[:200] or 'nothing'}, but not {missing[0]!r}"
        if any(name.endswith("data.pkl") for name in names):
            found = "a PyTorch model, which is a pickle and can run code"
        raise _corrupt(file, f"it contains {found}")
    if len(names) > len(PARTS) + (HEAD in names):
        known = (*PARTS, HEAD)
        other = next((repr(name[:200]) for name in names if name not in known), "a part twice")
        raise _refusal(
            file, f"it contains {other}, but a model consists only of {', '.join(PARTS)}"
        )
    for info in infos:
        # Keras does not compress, so reading a part takes no more memory than its size on disk.
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise _refusal(file, f"{info.filename} is compressed, which Keras never does")
        limit = _MAX_BYTES.get(info.filename, size)
        if info.file_size > limit:
            found = f"{info.filename} has {readable_bytes(info.file_size)}"
            raise _refusal(file, f"{found}, but the limit is {readable_bytes(limit)}")
    if sum(info.file_size for info in infos) > size:
        raise _refusal(file, "its parts overlap")


def _checked_head(text: bytes, file: str) -> dict[str, Any]:
    head = parse_json(text, f"{HEAD} in {file!r}")
    for name, value in head.items():
        numbers = value if isinstance(value, list) else [value]
        simple = len(numbers) <= 10_000 and all(isinstance(x, (bool, int, float)) for x in numbers)
        simple = simple or (name, value) == ("support", QUANTILES)
        if name not in _HEAD_OPTIONS or not simple:
            raise _refusal(file, f"{HEAD} has an unknown entry {name[:80]!r}")
    return head


def _check_version(metadata: dict[str, Any], file: str, allow_version_skew: bool) -> None:
    saved, installed = one_line(metadata.get("keras_version"), 40), version("keras")
    if not (saved_release := _release(saved)):
        raise _corrupt(file, f"{METADATA} names the Keras version {saved!r}")
    if saved_release > (_release(installed) or saved_release) and not allow_version_skew:
        raise VersionSkewError(
            f"{file!r} was saved by Keras {saved}, but Keras {installed} is installed and may load "
            "it wrongly. Upgrade Keras, or try to load it with allow_version_skew=True "
            "(--allow-version-skew)."
        )


def _release(text: str) -> tuple[int, int] | None:
    match = re.match(r"(\d{1,6})\.(\d{1,6})", text)
    return match and (int(match[1]), int(match[2]))


class _ConfigChecker:
    """Checks that everything Keras would make of a config is allowed."""

    def __init__(self, file: str, is_registered: Callable[[str], bool]):
        self.file = file
        self.is_registered = is_registered
        self.objects = 0
        self.built_in = True

    def check(
        self, value: Any, where: str = "the model", depth: int = 0, limited: bool = False
    ) -> None:
        """Check a part of a config that belongs to the layer ``where``.

        Integers are limited in what belongs to a class of Keras whose integers are sizes.
        """
        if depth > _MAX_DEPTH:
            raise _refusal(self.file, f"its config is nested deeper than {_MAX_DEPTH} levels")
        if isinstance(value, dict):
            if "class_name" in value:
                where = _layer_name(value) or where
                limited = self._check_object(value, where, limited)
            for key, inner in value.items():
                self.check(inner, where, depth + 1, limited and key not in _UNLIMITED_INTEGERS)
            name, calls = value.get("name"), value.get("inbound_nodes", [])
            if isinstance(name, str) and re.search(r"[/\\\0]|^\.+$", name):
                raise _refusal(self.file, f"a layer is named {name[:80]!r}, which is a path")
            if not isinstance(calls, list) or not all(map(_has_layer_output, calls)):
                raise _refusal(self.file, f"{where} is called on no output of another layer")
        elif isinstance(value, list):
            for inner in value:
                self.check(inner, where, depth + 1, limited)
        elif limited and isinstance(value, int) and value > _MAX_INTEGER:
            size = f"a size of {value:,}, but the limit is {_MAX_INTEGER:,}"
            raise _refusal(self.file, f"{where} has {size}")

    def _check_object(self, node: dict[str, Any], where: str, limited: bool) -> bool:
        """Check the class or function of an object, and return whether its integers are limited."""
        self.objects += 1
        if self.objects > _MAX_OBJECTS:
            raise _refusal(self.file, f"its config has more than {_MAX_OBJECTS:,} objects")
        kind, module, alias = (
            str(node.get(key)) for key in ("class_name", "module", "registered_name")
        )
        settings = node.get("config")
        options = settings if isinstance(settings, dict) else {}
        if kind in REFUSED_CLASSES:
            raise _refusal(self.file, f"{where} is a {kind}, which {REFUSED_CLASSES[kind]}")
        if kind in VALUES:
            dtype = str(options.get("dtype"))
            if kind in ("__tensor__", "__numpy__") and dtype not in DTYPES:
                raise _refusal(self.file, f"a constant in {where} has the type {dtype[:80]!r}")
            return limited
        is_function = kind == "function"
        name = str(settings) if is_function else kind
        names = [name] if is_function else [name, alias]
        # Without a module, Keras loads an object in an older way that checks less.
        if "module" in node and any(map(self.is_registered, names)):
            self.built_in = False
            return False
        allowed = ALLOWED_FUNCTIONS if is_function else ALLOWED_CLASSES
        if name not in allowed.get(module, ()) or alias not in ("None", kind, name):
            full_name = f"{module}.{name}"
            raise _refusal(
                self.file,
                f"{where} uses {full_name[:100]!r}, which is neither registered nor among the "
                "classes and functions of Keras that tfpg allows",
                "If you trust it, import the code that registers it, or pass custom_objects="
                f"{{{name[:80]!r}: ...}}.",
            )
        for option, reason in REFUSED_OPTIONS.items():
            if options.get(option):
                raise _refusal(self.file, f"{where} sets {option!r}, which {reason}")
        return not module.startswith("keras.optimizers")


def _layer_name(node: dict[str, Any]) -> str | None:
    options = node.get("config")
    name = options.get("name") if isinstance(options, dict) else None
    return repr(name[:80]) if isinstance(name, str) else None


def _has_layer_output(value: Any) -> bool:
    if isinstance(value, dict) and "class_name" in value:
        return value["class_name"] == "__keras_tensor__"
    inner = value.values() if isinstance(value, dict) else value
    return isinstance(value, (dict, list)) and any(map(_has_layer_output, inner))


def _copy_weights(stored: bytes, file: str) -> tuple[io.BytesIO, int]:
    """Return a new HDF5 file with the arrays of another one, and their size in bytes.

    Attributes are not copied: damaged ones make HDF5 search forever. The new file is in memory,
    because h5py crashes the process when a disk is full.
    """
    import h5py

    new, total = io.BytesIO(), 0
    try:
        with h5py.File(io.BytesIO(stored), "r") as source, h5py.File(new, "w") as target:
            for name, values in _plain_arrays(source, len(stored), file):
                total += values.nbytes
                array = target.create_dataset(name, data=values)
                if values.dtype == _BFLOAT16:
                    array.attrs["dtype"] = "bfloat16"  # as Keras marks it
    except (UnsafeCheckpointError, MemoryError):
        raise
    except Exception as error:
        raise CheckpointCorruptError(
            f"{file!r} is damaged: its weights are not valid HDF5 ({one_line(error)}). Save the "
            "model again."
        ) from error
    return new, total


def _plain_arrays(source: Any, size: int, file: str) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the values of each array in an HDF5 file of ``size`` bytes."""
    import h5py

    seen = {h5py.h5o.get_info(source.id).addr}
    left = [("", source)]
    while left:
        parent, group = left.pop()
        for key in group.id:
            name = f"{parent}/{key.decode()}"
            shown = f"{name[:200]!r} in its weights"
            # Check the link before its target. A name with a slash would be read as a path.
            if b"/" in key or group.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
                raise _refusal(file, f"{shown} is a link")
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or name.count("/") > _MAX_DEPTH:
                raise _refusal(file, f"{shown} is there twice or nested too deep")
            seen.add(address)
            if isinstance(item, h5py.Group):
                left.append((name, item))
            elif isinstance(item, h5py.Dataset):
                values = _values(item, size, file, shown)
                size -= values.nbytes  # arrays that share their bytes would have more together
                yield name, values
            else:
                raise _refusal(file, f"{shown} is neither a group nor an array")


def _values(array: Any, size: int, file: str, shown: str) -> np.ndarray:
    # First of all, because the shape of a virtual array is looked up in other files.
    if array.is_virtual or array.external:
        raise _refusal(file, f"{shown} is stored in other files")
    if array.chunks:
        raise _refusal(file, f"{shown} is chunked or compressed, which Keras never does")
    if array.dtype.kind not in "biuf" and array.dtype != _BFLOAT16:
        raise _refusal(file, f"{shown} is not an array of numbers")
    needed = math.prod(array.shape) * array.dtype.itemsize
    stored = min(array.id.get_storage_size(), size)
    if needed > stored:
        raise _refusal(file, f"{shown} needs {needed:,} bytes but has {stored:,}")
    return array[()]


def _refusal(
    file: str, reason: str, advice: str = "Save the model again without it."
) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(f"{file!r} is refused: {reason}. {advice}")


def _corrupt(file: str, reason: str) -> CheckpointCorruptError:
    return CheckpointCorruptError(
        f"{file!r} is not a complete .keras file, which is a zip archive of {', '.join(PARTS)}: "
        f"{reason}. Save the model with model.save('NAME.keras')."
    )
