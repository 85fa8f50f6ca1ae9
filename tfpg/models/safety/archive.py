"""A ``.keras`` file from anyone: its sizes bounded, its parts looked through, then unpacked."""

from __future__ import annotations

import json
import os
import re
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tfpg.core.files import open_regular, parse_json
from tfpg.core.memory import check_memory, readable_bytes
from tfpg.errors import CheckpointCorruptError, UnsafeCheckpointError
from tfpg.models.safety.configs import check_config
from tfpg.models.safety.weights import copy_weights

METADATA, CONFIG, WEIGHTS = MEMBERS = ("metadata.json", "config.json", "model.weights.h5")
_MAX_JSON = {METADATA: 64 * 1024, CONFIG: 8 * 2**20}
_MAX_INDEX = 64 * 1024
_END = 22  # bytes of a zip archive's last record, where it has no comment
# Weights, two of an optimizer's for each, and what is read from the file meanwhile.
_COPIES = 4


class Unpacked(NamedTuple):
    """A model file that has been looked through.

    Attributes:
        folder: Where its three parts are, as `keras.saving.load_model` takes them.
        config: Of the model.
        weights: Bytes of numbers in it.
        built_in: The model is of Keras's own classes alone.
    """

    folder: Path
    config: dict[str, Any]
    weights: int
    built_in: bool


@contextmanager
def unpacked(
    path: str | os.PathLike,
    registered: Callable[[str], bool] = lambda name: False,
    allow_version_skew: bool = False,
) -> Iterator[Unpacked]:
    """The parts of a ``.keras`` file in a folder of their own, where they are harmless.

    What is looked through is what Keras then reads: the file is opened once.

    Args:
        path: Of the file.
        registered: Whether a name is one of the caller's own classes or functions.
        allow_version_skew: Take a file of a newer Keras.

    Raises:
        CheckpointCorruptError: It is not a whole ``.keras`` file.
        UnsafeCheckpointError: It holds what a model does not need.
        ValueError: It is of a newer Keras.
        MemoryError: It does not fit into memory.
        OSError: It cannot be read, or not be unpacked.
    """
    path = check_model_file(path)
    name = str(path)
    with open_regular(path) as file, tempfile.TemporaryDirectory(prefix="tfpg-") as made:
        folder = Path(made)
        config, built_in, weights = _unpack(file, name, folder, registered, allow_version_skew)
        yield Unpacked(folder, config, weights, built_in)


def _unpack(
    file: BinaryIO, name: str, folder: Path, registered: Callable[[str], bool], skew: bool
) -> tuple[dict[str, Any], bool, int]:
    size = os.fstat(file.fileno()).st_size
    with _opened(file, size, name) as archive:
        infos = _members(archive, size, name)
        metadata = _json(archive, infos[METADATA], name)
        _check_version(metadata, name, skew)
        config = _json(archive, infos[CONFIG], name)
        built_in = check_config(config, name, registered)
        check_memory(
            _COPIES * infos[WEIGHTS].file_size,
            f"The model {name!r}",
            "free some, or load it on a larger machine",
        )
        for part, content in ((METADATA, metadata), (CONFIG, config)):
            (folder / part).write_text(json.dumps(content), encoding="ascii")
        stored = folder / "stored.h5"
        _copy(archive, infos[WEIGHTS], stored, name)
    weights = copy_weights(stored, folder / WEIGHTS, name)
    stored.unlink()  # Keras takes a fourth file for a folder of assets
    return config, built_in, weights


@contextmanager
def _opened(file: BinaryIO, size: int, name: str) -> Iterator[zipfile.ZipFile]:
    file.seek(max(0, size - _END - 20))
    end = file.read()
    # zipfile reads the whole index at once.
    if int.from_bytes(end[-10:-6], "little") > _MAX_INDEX or (
        size < 2**32 and end[:4] == b"PK\6\7"
    ):
        raise UnsafeCheckpointError(f"{name!r} is refused: its index is larger than three parts'.")
    try:
        archive = zipfile.ZipFile(file)
    except Exception as error:
        raise _corrupt(name, f"found {_one_line(error)}") from error
    with archive:
        try:
            yield archive
        except (zipfile.BadZipFile, struct.error, EOFError, NotImplementedError) as error:
            raise _corrupt(name, f"found {_one_line(error)}") from error


def _members(archive: zipfile.ZipFile, size: int, name: str) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    other = sorted({n for n in names if n not in MEMBERS})
    if missing := [n for n in MEMBERS if n not in names]:
        held = f"holds {', '.join(map(repr, names))[:200] or 'nothing'}"
        raise _corrupt(name, f"found an archive that {held}, and lacks {missing[0]!r}")
    if other:
        raise UnsafeCheckpointError(
            f"{name!r} is refused: it holds {other[0][:200]!r}, and a model needs "
            f"{', '.join(MEMBERS)} alone. Save the model again with Keras."
        )
    if len(set(names)) < len(names):
        raise UnsafeCheckpointError(f"{name!r} is refused: it holds a part of one name twice.")
    for info in infos:
        # Keras compresses nothing: so what is read is never more than what is there.
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise UnsafeCheckpointError(
                f"{name!r} is refused: {info.filename} is compressed from "
                f"{readable_bytes(info.file_size)} to {readable_bytes(info.compress_size)}, and "
                "Keras stores it as it is. Save the model again with Keras."
            )
        if info.flag_bits & 1:
            raise UnsafeCheckpointError(f"{name!r} is refused: {info.filename} is encrypted.")
        if not 0 <= info.header_offset < size:
            raise _corrupt(name, f"found {info.filename} at {info.header_offset:,}")
        limit = _MAX_JSON.get(info.filename, size)
        if info.file_size > limit:
            raise UnsafeCheckpointError(
                f"{name!r} is refused: {info.filename} has {readable_bytes(info.file_size)}, and "
                f"up to {readable_bytes(limit)} are read."
            )
    if sum(info.file_size for info in infos) > size:
        raise UnsafeCheckpointError(f"{name!r} is refused: its parts overlap.")
    return {info.filename: info for info in infos}


def _json(archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> dict[str, Any]:
    return parse_json(archive.read(info), f"{info.filename} of {name!r}")


def _check_version(metadata: dict[str, Any], name: str, skew: bool) -> None:
    saved, own = str(metadata.get("keras_version"))[:40], version("keras")
    if (found := _release(saved)) is None:
        raise _corrupt(name, f"found the Keras version {saved!r} in its {METADATA}")
    if found > (_release(own) or found) and not skew:
        raise ValueError(
            f"{name!r} was saved by Keras {saved}, and this is Keras {own}, which may read it "
            "wrongly: upgrade Keras, or try it with allow_version_skew=True (--allow-version-skew)."
        )


def _release(text: str) -> tuple[int, int] | None:
    match = re.match(r"(\d{1,6})\.(\d{1,6})", text)
    return match and (int(match[1]), int(match[2]))


def _copy(archive: zipfile.ZipFile, info: zipfile.ZipInfo, to: Path, name: str) -> None:
    with archive.open(info) as source, to.open("wb") as target:
        while part := source.read(2**20):  # its end checks the sum
            try:
                target.write(part)
            except OSError as error:
                raise OSError(
                    f"{name!r} cannot be unpacked into {str(to.parent)!r}: {error.strerror}. "
                    "Name a folder with more room in TMPDIR."
                ) from error


def check_model_file(path: str | os.PathLike) -> Path:
    """Returns the path of a file that looks like a ``.keras`` model, without reading it all.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a folder.
        CheckpointCorruptError: It is not a whole zip archive, which a ``.keras`` file is.
        UnsafeCheckpointError: It is a device or a pipe.

    Example:
        >>> check_model_file("missing.keras")
        Traceback (most recent call last):
            ...
        FileNotFoundError: No model at 'missing.keras'.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"No model at {str(path)!r}.")
    if path.is_dir():
        raise IsADirectoryError(
            f"{str(path)!r} is a folder{_kind_of_folder(path)}: name the .keras file in it."
        )
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(512)
        file.seek(max(0, size - _END))
        end = file.read(_END)
    kind = _kind_of(start)
    whole = len(end) == _END and end[:4] == b"PK\5\6" and end[-2:] == b"\0\0"
    if kind or not whole or start[:4] not in (b"PK\3\4", b"PK\5\6"):
        found = f"{size:,} bytes" + (f" that look like {kind}" if kind else "")
        cut = start[:2] == b"PK"
        raise _corrupt(str(path), f"found {found}", "It was cut short: " if cut else "")
    return path


def _corrupt(name: str, found: str, why: str = "") -> CheckpointCorruptError:
    return CheckpointCorruptError(
        f"{name!r} is not a whole .keras file, which is a zip archive of {', '.join(MEMBERS)}; "
        f"{found}. {why}{'save' if why else 'Save'} it again with model.save('NAME.keras')."
    )


_STARTS = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (.h5), Keras's older format, which can hold code",
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"7z\xbc\xaf\x27\x1c": "a 7z file",
    b"Rar!": "a RAR file",
    b"\x93NUMPY": "a NumPy array (.npy)",
    b"GGUF": "a GGUF file",
    b"version https://git-lfs": "a pointer of Git LFS: git lfs pull brings the file itself",
    b"<": "a web page",
    b"{": "JSON",
}


def _kind_of(start: bytes) -> str:
    """What a file that begins so is, where it is known and no zip archive of Keras's."""
    if start[:4] == b"PK\3\4":
        first = start[30 : 30 + int.from_bytes(start[26:28], "little")]
        if first.endswith(b".npy"):
            return "NumPy arrays (.npz)"
        return "a PyTorch file (.pt), which is a pickle" if first.endswith(b"data.pkl") else ""
    if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "a pickle, and unpickling runs code"
    if start[257:262] == b"ustar":
        return "a tar file"
    if start[8:10] == b'{"':
        return "a safetensors file"
    return next((kind for begin, kind in _STARTS.items() if start.startswith(begin)), "")


def _kind_of_folder(path: Path) -> str:
    try:
        names = {entry.name for entry in path.iterdir()}
    except OSError:
        return ""
    if names & {"saved_model.pb", "saved_model.pbtxt"}:
        return ", a TensorFlow SavedModel"
    if names & {"_CHECKPOINT_METADATA", "_METADATA", "orbax.checkpoint"}:
        return ", an Orbax checkpoint"
    if any((path / name / "_CHECKPOINT_METADATA").exists() for name in names if name.isdigit()):
        return ", an Orbax checkpoint"
    return ", an unpacked Keras model" if {CONFIG, WEIGHTS} <= names else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:200] or type(error).__name__
